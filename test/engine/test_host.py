import ctypes

import pytest

from tinyllama_ros.engine.host import LARGE_BUFFER, return_large_buffers


class Mallinfo(ctypes.Structure):
    """The fields of mallinfo(3)."""

    _fields_ = [(name, ctypes.c_int) for name in (
        'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks',
        'fordblks', 'keepcost')]


def count_mapped() -> int:
    """Return how many buffers the system has given by themselves."""
    mallinfo = ctypes.CDLL(None).mallinfo
    mallinfo.restype = Mallinfo
    return int(mallinfo().hblks)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallinfo'), reason='needs glibc')
def test_large_buffer_is_no_part_of_the_heap_whatever_was_freed_before() -> None:
    return_large_buffers()
    larger = bytearray(100 * LARGE_BUFFER)
    del larger
    before = count_mapped()
    buffer = bytearray(64 * LARGE_BUFFER)  # more than the heap has free in one place
    assert count_mapped() == before + 1
    del buffer
    assert count_mapped() == before
