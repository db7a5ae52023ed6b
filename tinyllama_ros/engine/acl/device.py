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
from tinyllama_ros.errors import BackendError, BackendLost

HUGE_FIRST = 0
"""Allocation policy: large pages if there are any."""
ON_DEVICE = 0
"""The run mode (acl.rt.get_run_mode) of a program on the chip's own cores."""
DDR = 0

log = logging.getLogger(__name__)


class Device:
    """
    A device in a context of its own; `close` frees what was made on it in reverse order.

    Each thread has its own current context, so another thread must call `enter` first.
    """

    def __init__(self, number: int, form: str = 'auto') -> None:
        """
        Open a device.

        :param form: ``rc``: it shares the host's memory; ``ep``: it has its own; ``auto``: ask it.
        :raises BackendError: pyACL is missing, or the device cannot be opened.
        """
        self.acl = _import_acl()
        self._free_calls = ExitStack()
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
        if not code:  # a process may initialise only once: later ones get REPEAT_INITIALIZE
            atexit.unregister(_finalize)
            atexit.register(_finalize, self.acl)
        self.call('rt.set_device', number)
        self.on_close('rt.reset_device', number)
        self._context = self.call('rt.create_context', number)
        self.on_close('rt.destroy_context', self._context)
        self.stream = self.call('rt.create_stream')
        self.on_close('rt.destroy_stream', self.stream)

    def _find_form(self, form: str) -> str:
        reported = 'rc' if self.call('rt.get_run_mode') == ON_DEVICE else 'ep'
        if form not in ('auto', reported):
            log.warning('the device reports the form %s; it is used as %s, as acl.form says',
                        reported, form)
            return form
        return reported

    def enter(self) -> None:
        """Make the calls of this thread go to this device."""
        if code := self.acl.rt.set_context(self._context):
            raise self._error('rt.set_context', code)

    def call(self, name: str, *arguments: Any) -> Any:
        """
        Call a function of pyACL; return its results without the return code.

        :param name: below acl, such as ``rt.malloc``.
        :raises AclError: the code is not 0; calls that may succeed later are made twice.
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
        Call a function that returns a handle and no code; return the handle.

        :raises BackendLost: it returned no handle.
        """
        handle: int = attrgetter(name)(self.acl)(*arguments)
        if not handle:
            raise BackendLost(f'acl.{name} returned no handle{self._recent_message()}; the host '
                              'may be out of memory')
        return handle

    def on_close(self, name: str, *arguments: Any) -> None:
        """Register a call that `close` makes; the call registered last is made first."""
        def free() -> None:
            call = attrgetter(name)(self.acl)
            code = call(*arguments) and call(*arguments)  # twice: what is not freed stays lost
            if code:
                log.warning('acl.%s failed with code %d while freeing: %s', name, code,
                            fault_of(code).meaning)

        self._free_calls.callback(free)

    def malloc(self, size: int) -> int:
        """Return the address of `size` bytes of new device memory."""
        address: int = self.call('rt.malloc', size, HUGE_FIRST)
        self.on_close('rt.free', address)
        return address

    def malloc_host(self, size: int) -> int:
        """Return the address of `size` bytes of new host memory that the device can copy."""
        address: int = self.call('rt.malloc_host', size)
        self.on_close('rt.free_host', address)
        return address

    def synchronize(self) -> None:
        """Wait until the stream is done; the only call during which other Python threads run."""
        self.call('rt.synchronize_stream', self.stream)

    def close(self) -> None:
        """Free everything that was made; it may be called again."""
        if self._context is not None:
            self.acl.rt.set_context(self._context)
            if self.stream:
                self.acl.rt.synchronize_stream(self.stream)
        self._free_calls.close()
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
