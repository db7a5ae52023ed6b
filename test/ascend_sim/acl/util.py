"""acl.util: addresses of Python objects, views over memory, native threads."""

import ctypes
import threading
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

from acl import codes
from acl.errors import Violation
from acl.process import call, current

_BYTES_HEADER = bytes.__basicsize__ - 1  # where the content starts, in CPython


@call('O', None, needs='nothing')
def bytes_to_ptr(data: Any) -> int:
    if not isinstance(data, bytes):
        raise ValueError(f'needs bytes as argument, not {type(data).__name__}')
    address = id(data) + _BYTES_HEADER
    current().borrowed.lend(address, data)
    return address


@call('kk', None, needs='nothing')
def ptr_to_bytes(address: int, size: int) -> bytes:
    return ctypes.string_at(_host(address, size, 'ptr_to_bytes'), size)


@call('O', None, needs='nothing')
def numpy_to_ptr(array: Any) -> int:
    _deprecated('numpy_to_ptr', 'bytes_to_ptr')
    _check_array(array)
    if not array.flags.c_contiguous:
        warnings.warn('the array is not contiguous; use acl.util.bytes_to_ptr', Warning,
                      stacklevel=4)
    return int(array.ctypes.data)


@call('O', None, needs='nothing')
def numpy_contiguous_to_ptr(array: Any) -> tuple[int, NDArray[Any]]:
    _deprecated('numpy_contiguous_to_ptr', 'bytes_to_ptr')
    _check_array(array)
    contiguous = np.ascontiguousarray(array) if array.ndim else array
    return int(contiguous.ctypes.data), contiguous


@call('kOi', None, needs='nothing')
def ptr_to_numpy(address: int, shape: Any, number: int) -> NDArray[Any]:
    _deprecated('ptr_to_numpy', 'ptr_to_bytes')
    if not isinstance(shape, tuple):
        raise SystemError('bad argument to internal function: the shape is no tuple')
    if not all(isinstance(dim, int) for dim in shape):
        raise TypeError('the second argument is not a tuple of int')
    if number not in codes.NUMPY_TYPES:
        raise ValueError(f'{number} is no NPY type number that this knows')
    dtype = np.dtype(codes.NUMPY_TYPES[number])
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return current().memory.view(_host(address, size, 'ptr_to_numpy'), shape, dtype)


@call('OO', (0,), needs='nothing')
def start_thread(function: Any, arguments: Any) -> int:
    thread = threading.Thread(target=function, args=(arguments,), daemon=True)
    thread.start()
    current().threads[thread.ident or 0] = thread
    return thread.ident or 0


@call('k', needs='nothing', waits=True)
def stop_thread(thread_id: int) -> None:
    thread = current().threads.pop(thread_id, None)
    if thread is None:
        raise Violation(f'stop_thread: {thread_id} is no thread of start_thread')
    thread.join()


def _host(address: int, size: int, use: str) -> int:
    """Return an address that the host may read."""
    process = current()
    place, kind = process.memory.bytes_at(address, size, use=use, writes=False)
    if kind == 'pageable':
        process.borrowed.check(address, size, use)
    if kind == 'device' and not process.is_rc:
        raise Violation(f'{use} of device memory {address:#x}: in EP form the host cannot '
                        'reach it; a real process dies here. Copy it with acl.rt.memcpy')
    return place


def _check_array(array: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise ValueError(f'needs an ndarray as argument, not {type(array).__name__}')


def _deprecated(name: str, instead: str) -> None:
    warnings.warn(f'acl.util.{name} will be deprecated. Please use acl.util.{instead} instead.',
                  Warning, stacklevel=5)
