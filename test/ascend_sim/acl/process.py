"""Holds the state of the simulated library, and wraps each of its calls."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
import operator
import os
import threading
from typing import Any

from acl import codes
from acl.borrowed import Borrowed
from acl.errors import Failure, Violation
from acl.faults import Faults
from acl.handles import Handles
from acl.memory import Memory

GIB = 1 << 30


@dataclass(eq=False)
class Device:
    """An NPU; `count` is how often set_device was called without reset_device."""

    number: int
    count: int = 0
    default: 'Context | None' = None
    lost: int = 0


@dataclass(eq=False)
class Context:
    """A context of a thread; `lost` is the code of the failure that made it unusable."""

    device: Device
    is_default: bool
    handle: int = 0
    lost: int = 0
    default_stream: Any = None


@dataclass
class Settings:
    """The properties of the simulated board; defaults come from the environment."""

    form: str = field(default_factory=lambda: os.environ.get('ASCEND_SIM_FORM', 'rc'))
    soc: str = field(default_factory=lambda: os.environ.get('ASCEND_SIM_SOC', 'Ascend310B4'))
    memory: int = field(default_factory=lambda: int(os.environ.get('ASCEND_SIM_MEMORY', 8 * GIB)))
    faults: str = field(default_factory=lambda: os.environ.get('ASCEND_SIM_FAULTS', ''))
    shapes: str = field(default_factory=lambda: os.environ.get('ASCEND_SIM_SHAPES', ''))
    watch: bool = field(default_factory=lambda: os.environ.get('ASCEND_SIM_WATCH', '') == '1')
    half: bool = field(default_factory=lambda: os.environ.get('ASCEND_SIM_HALF', '') == '1')
    fill: int = field(default_factory=lambda: int(os.environ.get('ASCEND_SIM_FILL', 0)))
    devices: int = 1

    def __post_init__(self) -> None:
        if self.form not in ('rc', 'ep'):
            raise ValueError(f'ASCEND_SIM_FORM is {self.form!r}; the forms are rc and ep')


class Process:
    """The state of the library, and a record of the calls."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.memory = Memory(settings.memory, settings.fill,
                             is_shared=settings.form == 'rc')
        self.handles = Handles()
        self.borrowed = Borrowed()
        self.faults = Faults(settings.faults)
        self.devices = {number: Device(number) for number in range(settings.devices)}
        self.models: dict[int, Any] = {}
        self.model_count = 0
        self.is_initialized = False
        self.lock = threading.RLock()
        self.thread = threading.local()
        self.calls: list[str] = []
        self.moved: Counter[str] = Counter()
        self.violations: list[str] = []
        self.reports: dict[int, Any] = {}
        self.threads: dict[int, Any] = {}
        self.watched: dict[int, Any] = {}
        self.waited_s = 0.0

    @property
    def is_rc(self) -> bool:
        return self.settings.form == 'rc'

    def context(self) -> Context:
        """Return this thread's context; raises Failure if it has none."""
        context: Context | None = getattr(self.thread, 'context', None)
        if context is None or not self.handles.find(context.handle, Context):
            raise Failure(codes.RT_CONTEXT_NULL, 'this thread has no context: call '
                          'acl.rt.set_context (or set_device) in it first')
        return context

    def working_context(self) -> Context:
        """Return this thread's context; raises Failure if an earlier failure made it unusable."""
        context = self.context()
        lost = context.device.lost or context.lost
        if lost:
            raise Failure(lost, 'an earlier failure made this context unusable')
        return context

    def record(self, message: str) -> None:
        """Record a mistake that a real board may tolerate or not."""
        self.violations.append(message)

    def lose(self, context: Context, code: int) -> None:
        """Make a context or its device unusable if a failure with this code does so."""
        if code in codes.LOSES_CONTEXT:
            context.lost = code
        if code in codes.LOSES_DEVICE:
            context.device.lost = code


_process = Process(Settings())


def current() -> Process:
    """Return the state of this process."""
    return _process


def replace(settings: Settings) -> Process:
    """Replace the state by a new one."""
    global _process
    _process.handles.close()
    _process = Process(settings)
    return _process


def _parse(form: str, args: tuple[Any, ...], name: str) -> list[Any]:
    """Return arguments parsed as by PyArg_ParseTuple; those after | are optional."""
    needed, _, optional = form.partition('|')
    if not len(needed) <= len(args) <= len(needed) + len(optional):
        raise TypeError(f'acl.{name} takes {len(needed)} arguments, not {len(args)}')
    return [_PARSERS[letter](value, f'acl.{name}, argument {number}') for number, (letter, value)
            in enumerate(zip(needed + optional, args, strict=False), 1)]


def _plain_int(value: Any, where: str) -> int:
    if not isinstance(value, int):
        raise TypeError(f'{where}: a plain int is wanted, not {type(value).__name__} {value!r}; '
                        'convert it with int()')
    return value % 2**64


def _index(bits: int, is_signed: bool) -> Callable[[Any, str], int]:
    def parse(value: Any, where: str) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f'{where}: an int is wanted, not {type(value).__name__} {value!r}'
                            ) from None
        if not is_signed:
            return number % 2**bits
        if not -2**(bits - 1) <= number < 2**(bits - 1):
            raise OverflowError(f'{where}: {number} does not fit a signed {bits} bit int')
        return number
    return parse


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{where}: str is wanted, not {type(value).__name__}')
    if '\0' in value:
        raise ValueError(f'{where}: embedded null character')
    return value


_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    'k': _plain_int, 'I': _index(32, False), 'i': _index(32, True), 'L': _index(64, True),
    's': _text, 'O': lambda value, _: value}


def call(form: str, failed: tuple[Any, ...] | None = (), *, bare: Any = None,
         needs: str = 'init', waits: bool = False) -> Callable[..., Callable[..., Any]]:
    """
    Return a decorator that makes a function a call of the library.

    The function raises Failure, or returns the values that precede the return code: None, one
    value, or a tuple.

    :param form: the arguments, in the letters of PyArg_ParseTuple.
    :param failed: the values that a failed call returns before its code; None for a call without
        a return code, which returns `bare` when it fails.
    :param needs: 'nothing', 'init', 'thread' (a context, even an unusable one) or 'context' (a
        usable one).
    :param waits: other threads may run during the call, because the real one releases the GIL.
    """
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        module = function.__module__.rpartition('.')[2]
        area = {'runtime': 'rt.', 'transfer': 'rt.', 'streams': 'rt.', 'mdl': 'mdl.',
                'dataset': 'mdl.', 'description': 'mdl.', 'util': 'util.'}.get(module, '')
        name = area + function.__name__

        def checked(process: Process, args: tuple[Any, ...]) -> Any:
            code = process.faults.due(name)
            if code:
                return _inject(process, function, args, code, name)
            if needs != 'nothing' and not process.is_initialized:
                raise Failure(codes.UNINITIALIZE, f'acl.{name} before acl.init')
            if needs == 'thread':
                process.context()
            elif needs == 'context':
                process.working_context()
            return function(*args)

        @wraps(function)
        def entry(*args: Any) -> Any:
            process = current()
            parsed = tuple(_parse(form, args, name))
            process.calls.append(name)
            try:
                if waits:
                    value = checked(process, parsed)
                else:
                    with process.lock:
                        value = checked(process, parsed)
            except Failure as failure:
                process.thread.message = f'EZ9999: acl.{name}: {failure}'
                if failed is None:
                    return bare
                return (*failed, failure.code) if failed else failure.code
            except Violation as violation:
                process.violations.append(f'acl.{name}: {violation}')
                raise
            if failed is None:
                return value
            if not failed:
                return codes.SUCCESS
            return (*value, codes.SUCCESS) if len(failed) > 1 else (value, codes.SUCCESS)
        return entry
    return decorate


def _inject(process: Process, function: Callable[..., Any], args: tuple[Any, ...], code: int,
            name: str) -> Any:
    """Inject a failure; work on a stream fails later, when a thread waits for it."""
    context: Context | None = getattr(process.thread, 'context', None)
    is_late = name.endswith('_async') and code // 1000 == 507
    if is_late:
        process.thread.late = code
        return function(*args)
    if name.startswith('rt.synchronize'):  # the work ends in any case
        try:
            function(*args)
        except Failure:
            pass
    if context is not None:
        process.lose(context, code)
    raise Failure(code, f'injected failure {code}')
