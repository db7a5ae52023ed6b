"""
What pyACL's return codes mean, and what may help: a second call, a reload, or nothing.

For nearly every code from 500000 on the vendor only says to collect logs; the remedies there are
the judgement of this project.

Source: https://github.com/hicann/runtime, docs/zh/api_ref/25-01_aclError.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tinyllama_ros.errors import BackendError, BackendLost, model_command


class Action(Enum):
    """What the program does after a failed call."""

    RETRY = 'make the same call once more; if that fails, too, reload'
    RELOAD = 'load everything again in a new context'
    GIVE_UP = 'report the error'


@dataclass(frozen=True)
class Fault:
    """The meaning of one return code, or of several."""

    meaning: str
    remedy: str
    action: Action


REPORT = 'the log under ~/ascend/log says more'
REBOOT = f'if loading the model again does not help, reboot; {REPORT}'
OUR_BUG = f'please report this; {REPORT}'
REBUILD = ('convert it on a machine with this CANN, for this chip (npu-smi info names it): '
           f'{model_command()} atc')
FREE = ('end other programs that use the device (npu-smi info lists them), or use a smaller model '
        'or one with fewer slots (--kv-length)')
PERMISSION = 'check that the file is there and that this user may read it'
ONE_RELEASE = ('install the driver and the CANN toolkit of one release; npu-smi info shows that '
               'of the driver')
HARDWARE = 'stop using the board and have it checked'
OUT_OF_MEMORY = (200000, 207001, 207018, 245000, 245002)
NOT_SUPPORTED = (200001, 200006, 207000)
REPEAT_INITIALIZE, REPEAT_FINALIZE = 100002, 100037

_BY_CODES: Mapping[tuple[int, ...], Fault] = {
    (100000, 107000, 145000): Fault('an argument is wrong', OUR_BUG, Action.GIVE_UP),
    (100001, 145001): Fault('acl is not initialised', OUR_BUG, Action.RELOAD),
    (REPEAT_INITIALIZE,): Fault('acl was initialised before', OUR_BUG, Action.GIVE_UP),
    (100003, 100006, 100014, 145002): Fault('the file cannot be read', PERMISSION,
                                            Action.GIVE_UP),
    (100011, 145003): Fault('no such model is loaded', OUR_BUG, Action.RELOAD),
    (100012, 100013, 100015, 100016, 145006): Fault(
        'the .om is damaged, or was made for another CANN or chip', REBUILD, Action.GIVE_UP),
    (100017, 100018, 100019, 145011, 145012, 145013, 145020, 145021, 145022): Fault(
        'the inputs are not those that the model was compiled for', OUR_BUG, Action.GIVE_UP),
    (REPEAT_FINALIZE,): Fault('acl was finalised before', OUR_BUG, Action.GIVE_UP),
    (100039,): Fault("CANN's stub libraries are loaded in place of the real ones",
                     'source set_env.sh of the toolkit in this shell', Action.GIVE_UP),
    (107001, 200002): Fault('there is no such device',
                            'set acl.device to a number that npu-smi info -l lists',
                            Action.GIVE_UP),
    (107002,): Fault('the thread has no context', OUR_BUG, Action.RETRY),
    (107003, 107004): Fault('an object belongs to another context', OUR_BUG, Action.RELOAD),
    (107017, 200005): Fault('a handle is no longer valid', OUR_BUG, Action.RELOAD),
    (107019,): Fault('waiting took too long', REBOOT, Action.RETRY),
    (107020,): Fault('a task took too long', REBOOT, Action.RELOAD),
    (145009,): Fault('the model is loaded already', OUR_BUG, Action.RELOAD),
    (148049,): Fault('ASCEND_OPP_PATH is not set',
                     'source set_env.sh of the toolkit in this shell', Action.GIVE_UP),
    (200000,): Fault('the host is out of memory', FREE, Action.RETRY),
    (207001, 207018, 245000, 245002): Fault('the device is out of memory', FREE, Action.GIVE_UP),
    NOT_SUPPORTED: Fault('this device cannot do that', OUR_BUG, Action.GIVE_UP),
    (207003,): Fault('a number overflowed', 'build the model with another quantisation',
                     Action.GIVE_UP),
    (207004,): Fault('the driver or the device is missing',
                     'check with npu-smi info that the driver sees the chip', Action.RELOAD),
    (207005, 207007, 207008, 207009, 207010): Fault('the device is out of resources', FREE,
                                                    Action.RELOAD),
    (207006,): Fault('this user may not use the device',
                     'add it to the group HwHiAiUser, and log in again', Action.GIVE_UP),
    (507010,): Fault('the device is lost: its task scheduler is silent', REBOOT, Action.RELOAD),
    (507033,): Fault('the device did not start: driver and CANN do not match', ONE_RELEASE,
                     Action.GIVE_UP),
    (507011,): Fault('the model failed on the device', REBOOT, Action.RELOAD),
    (507012, 507046, 545601): Fault('the device did not answer in time', REBOOT, Action.RETRY),
    (507014, 507015, 507016, 507034, 507035, 507036, 507042, 507043, 507044, 507045): Fault(
        'an operator failed on the AI core', REBOOT, Action.RELOAD),
    (507017, 507018): Fault('an operator failed on the AI CPU', REBOOT, Action.RELOAD),
    (507053, 507054): Fault("the device's memory is faulty", HARDWARE, Action.GIVE_UP),
    (507901,): Fault('the channel to the device is closed', REBOOT, Action.RELOAD),
    tuple(range(545001, 545010)): Fault(
        'the runtime could not load or unload the model',
        f'check that CANN is not older than the one that converted it ({model_command()} doctor)',
        Action.RELOAD),
}
_BY_CODE = {code: fault for codes, fault in _BY_CODES.items() for code in codes}
_INTERNAL = Fault('an error inside CANN', REBOOT, Action.RELOAD)
_UNKNOWN = Fault('a code that this program does not know', REPORT, Action.GIVE_UP)


class AclError(BackendError):
    """A call of pyACL failed."""

    def __init__(self, call: str, code: int, detail: str = '') -> None:
        fault = fault_of(code)
        more = f' ({detail})' if detail else ''
        super().__init__(f'acl.{call} failed with code {code}: {fault.meaning}{more}; '
                         f'{fault.remedy}')
        self.call = call
        self.code = code
        self.detail = detail


class AclLost(AclError, BackendLost):
    """A call of pyACL failed, and may succeed in a new context."""


def fault_of(code: int) -> Fault:
    """Return what a code means."""
    return _BY_CODE.get(code, _INTERNAL if code >= 500000 else _UNKNOWN)


def acl_error(call: str, code: int, detail: str = '') -> AclError:
    """
    Return the error for a call that failed, also at its second try if it has one.

    :param detail: further information, put in brackets.
    """
    kind = AclError if fault_of(code).action is Action.GIVE_UP else AclLost
    return kind(call, code, detail)
