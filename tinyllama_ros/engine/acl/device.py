"""One Ascend device through pyACL: its context, its memory, and every return code checked."""

import atexit
from collections.abc import Callable
from contextlib import ExitStack
import ctypes
import logging
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinyllama_ros.engine.acl.errors import (
    acl_error,
    Action,
    fault_of,
    OUT_OF_MEMORY,
    REPEAT_FINALIZE,
    REPEAT_INITIALIZE,
)
from tinyllama_ros.errors import BackendError, BackendLost, ConfigError

FORMS = ('auto', 'rc', 'ep')
HUGE_FIRST = 0
"""Policy of an allocation: large pages where there are some."""
ON_DEVICE = 0
"""The run mode of a program on the chip's own cores."""
DDR = 0

log = logging.getLogger(__name__)


class Device:
    """
    A device in a context of its own; what is made on it is freed in reverse order.

    A context is current per thread, so whoever calls in another thread enters first.
    """

    def __init__(self, number: int, form: str = 'auto') -> None:
        """
        Open a device.

        :param form: ``rc``: its memory is the host's; ``ep``: it is not; ``auto``: ask it.
        :raises ConfigError: there is no such form.
        :raises BackendError: pyACL is missing, or the device cannot be opened.
        """
        if form not in FORMS:
            raise ConfigError(f'acl.form is {form!r}; it must be one of {", ".join(FORMS)}')
        self.acl = _import_acl()
        self._frees = ExitStack()
        self._context: int | None = None
        self.stream = 0
        try:
            self._open(number)
            self.is_shared = self._find_form(form) == 'rc'
        except BaseException:
            self.close()
            raise

    def _open(self, number: int) -> None:
        code = self.acl.init()
        if code not in (0, REPEAT_INITIALIZE):
            raise self._error('init', code)
        if not code:  # a process may initialise once only: the next device finds it done
            atexit.unregister(_finalize)
            atexit.register(_finalize, self.acl)
        self.call('rt.set_device', number)
        self.when_closed('rt.reset_device', number)
        self._context = self.call('rt.create_context', number)
        self.when_closed('rt.destroy_context', self._context)
        self.stream = self.call('rt.create_stream')
        self.when_closed('rt.destroy_stream', self.stream)

    def _find_form(self, form: str) -> str:
        found = 'rc' if self.call('rt.get_run_mode') == ON_DEVICE else 'ep'
        if form not in ('auto', found):
            log.warning('the device says that its form is %s; taking it as %s', found, form)
            return form
        return found

    def enter(self) -> None:
        """Make the calls of this thread go to this device."""
        if code := self.acl.rt.set_context(self._context):
            raise self._error('rt.set_context', code)

    def call(self, name: str, *arguments: Any) -> Any:
        """
        Return what a call returns beside its code.

        :param name: below acl, such as ``rt.malloc``.
        :raises AclError: the code is not 0; where it is worth it, not even at a second time.
        """
        function: Callable[..., Any] = attrgetter(name)(self.acl)
        *values, code = _as_tuple(function(*arguments))
        if code and fault_of(code).action is Action.RETRY:
            log.warning('acl.%s failed with code %d (%s); trying once more', name, code,
                        fault_of(code).meaning)
            if self._context is not None:
                self.enter()
            *values, code = _as_tuple(function(*arguments))
        if code:
            raise self._error(name, code)
        return values[0] if len(values) == 1 else tuple(values)

    def make(self, name: str, *arguments: Any) -> int:
        """
        Return the handle that a call makes which has no code.

        :raises BackendLost: there is none.
        """
        handle: int = attrgetter(name)(self.acl)(*arguments)
        if not handle:
            raise BackendLost(f'acl.{name} returned no handle{self._recent_message()}; the host '
                              'may be out of memory')
        return handle

    def when_closed(self, name: str, *arguments: Any) -> None:
        """Make this call when the device is closed, before those that were asked for earlier."""
        def free() -> None:
            call = attrgetter(name)(self.acl)
            code = call(*arguments) and call(*arguments)  # once more: what stays is lost for long
            if code:
                log.warning('acl.%s failed with code %d while freeing: %s', name, code,
                            fault_of(code).meaning)

        self._frees.callback(free)

    def malloc(self, size: int) -> int:
        """Return the address of device memory of so many bytes."""
        address: int = self.call('rt.malloc', size, HUGE_FIRST)
        self.when_closed('rt.free', address)
        return address

    def malloc_host(self, size: int) -> int:
        """Return the address of host memory that the device can copy from and to."""
        address: int = self.call('rt.malloc_host', size)
        self.when_closed('rt.free_host', address)
        return address

    def synchronize(self) -> None:
        """Wait for what was started; the only call that lets other Python threads run."""
        self.call('rt.synchronize_stream', self.stream)

    def close(self) -> None:
        """Free all that was made; once closed it may be closed again."""
        if self._context is not None:
            self.acl.rt.set_context(self._context)
            if self.stream:
                self.acl.rt.synchronize_stream(self.stream)
        self._frees.close()
        self._context = None

    def _error(self, call: str, code: int) -> BackendError:
        detail = self._recent_message()
        if code in OUT_OF_MEMORY:
            free, total, unknown = self.acl.rt.get_mem_info(DDR)
            if not unknown:
                detail += f', {free / 1e6:.0f} of {total / 1e6:.0f} MB are free'
        return acl_error(call, code, detail.removeprefix(', '))

    def _recent_message(self) -> str:
        message = self.acl.get_recent_err_msg()
        return ', ' + ' '.join(message.split()) if message else ''


def view(address: int, size: int, dtype: DTypeLike) -> NDArray[Any]:
    """
    Return memory as a flat array, which does not own it.

    pyACL's own ptr_to_numpy does the same, but is deprecated, and warns at each call.
    """
    memory = (ctypes.c_char * size).from_address(address)
    flat: NDArray[Any] = np.frombuffer(memoryview(memory), np.uint8).view(dtype)
    return flat


def _import_acl() -> Any:
    try:
        import acl
    except ImportError as error:
        raise BackendError(
            f'the acl backend needs the Python module acl of the CANN toolkit ({error}); run: '
            'source /usr/local/Ascend/ascend-toolkit/set_env.sh') from error
    return acl


def _finalize(acl: Any) -> None:
    code = acl.finalize()
    if code not in (0, REPEAT_FINALIZE):
        log.warning('acl.finalize failed with code %d: %s', code, fault_of(code).meaning)


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
