import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from tinyllama_ros.engine.host import LARGE_BUFFER, return_large_buffers

class Mallinfo(ctypes.Structure):  # mallinfo(3)
    _fields_ = [(name, ctypes.c_int) for name in (
        'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks',
        'fordblks', 'keepcost')]

def count_mapped():  # buffers that the system has given by themselves
    mallinfo = ctypes.CDLL(None).mallinfo
    mallinfo.restype = Mallinfo
    return mallinfo().hblks

if not hasattr(ctypes.CDLL(None), 'mallinfo'):
    print('no glibc')
    raise SystemExit
return_large_buffers()
larger = bytearray(100 * LARGE_BUFFER)
del larger
before = count_mapped()
buffer = bytearray(64 * LARGE_BUFFER)
during = count_mapped()
del buffer
print(during - before, count_mapped() - before)
"""


def test_large_buffer_is_no_part_of_the_heap_whatever_was_freed_before():
    found = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True,
                           check=True).stdout.strip()
    if found == 'no glibc':
        pytest.skip('needs glibc')
    assert found == '1 0'
