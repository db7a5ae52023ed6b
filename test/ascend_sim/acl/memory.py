"""
Device memory and pinned host memory, each allocation on pages of its own.

A device address in EP form is reserved and maps to nothing: a host that touches it dies of a
segmentation fault, as it does on a real host. The bytes live at a second address that only this
module knows. In RC form both addresses are one, and views reach the memory. Addresses are never
used twice, and freed ones map to nothing; the end of an allocation touches a page that maps to
nothing, so that an overrun ends there.
"""

from bisect import bisect_right, insort
import ctypes
from dataclasses import dataclass, field
import mmap
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acl import codes
from acl.errors import Failure, Violation

_PROT_NONE, _MAP_FIXED, _MAP_NORESERVE = 0, 0x10, 0x4000
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                       ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@dataclass(eq=False)
class Allocation:
    """What one malloc made; `address` is what the caller was told, `bytes_at` where it lives."""

    address: int
    bytes_at: int
    size: int
    kind: str
    """'device' or 'host'."""
    reserved: int
    charge: int
    pages: tuple[int, int]
    is_freed: bool = False
    used_by: dict[str, bool] = field(default_factory=dict)
    """Work under way, or models, that use it, and whether they write to it."""

    def __str__(self) -> str:
        return f'{self.kind} memory {self.address:#x} ({self.size} bytes)'


class Memory:
    """
    All allocations of one process.

    :param fill: the byte that new memory holds; 0xFF is a NaN as fp16 or fp32, and -1 as int8, so
        that nobody gets by with relying on it.
    """

    def __init__(self, limit: int, fill: int, *, is_shared: bool) -> None:
        self.limit = limit
        self._fill = fill
        self.is_shared = is_shared
        self.charged = 0
        self._made: list[Allocation] = []  # by address, freed ones too

    def allocate(self, size: int, kind: str) -> Allocation:
        """Return new memory that holds garbage; raises Failure where the limit forbids it."""
        is_device = kind == 'device' or self.is_shared
        charge = (size + 31) // 32 * 32 + 32 if is_device else 0
        self.charge(charge, f'{kind} memory of {size} bytes')
        rounding = 64 if kind == 'device' else 16  # malloc_host promises no alignment
        length = (size + rounding - 1) // rounding * rounding
        used = (length + _PAGE - 1) // _PAGE * _PAGE
        reserved = used + _PAGE
        start = _map(None, reserved, _PROT_NONE)
        offset = used - length
        bytes_at = start + offset
        pages = start, used
        if kind == 'device' and not self.is_shared:
            hidden = _map(None, used, mmap.PROT_READ | mmap.PROT_WRITE)
            bytes_at, pages = hidden + offset, (hidden, used)
        else:
            _map(start, used, mmap.PROT_READ | mmap.PROT_WRITE, _MAP_FIXED)
        ctypes.memset(bytes_at, self._fill, length)
        made = Allocation(start + offset, bytes_at, size, kind, reserved, charge, pages)
        insort(self._made, made, key=attrgetter('address'))
        return made

    def free(self, address: int, kind: str) -> None:
        """Give back what allocate returned."""
        made = self._at(address)
        if made is None or made.is_freed or made.address != address:
            raise Violation(f'freed {self.name(address)}')
        if made.kind != kind:
            raise Violation(f'{made} freed as {kind} memory')
        if made.used_by:
            raise Violation(f'freed {made}, which is in use: {", ".join(sorted(made.used_by))}')
        self._release(made)

    def free_all(self, kind: str) -> None:
        """Free what a reset of the device takes away."""
        for made in self.live():
            if made.kind == kind:
                self._release(made)

    def charge(self, size: int, what: str) -> None:
        """Count bytes of device memory as used (or, when negative, as free again)."""
        if self.charged + size > self.limit:
            raise Failure(codes.RT_MEMORY_ALLOCATION,
                          f'out of device memory: {what} asked for, '
                          f'{self.limit - self.charged} of {self.limit} bytes free')
        self.charged += size

    def find(self, address: int) -> Allocation | None:
        """Return the allocation that holds this address."""
        made = self._at(address)
        return None if made is None or made.is_freed else made

    def bytes_at(self, address: int, size: int, *, use: str, writes: bool, stream: str = ''
                 ) -> tuple[int, str]:
        """
        Return where size bytes from an address really live, and of which kind they are.

        :param stream: the stream in whose order this happens, so that its own work is no conflict.
        :raises Violation: for freed memory, bytes beyond the end of an allocation, and memory
            that work under way is using.
        """
        made = self._at(address)
        if made is None:
            return address, 'pageable'
        if made.is_freed:
            raise Violation(f'{use}: {self.name(address)}')
        if address + size > made.address + made.size:
            raise Violation(f'{use}: {size} bytes from {address:#x} run over the end of {made}')
        for user, is_writing in made.used_by.items():
            if (writes or is_writing) and not (stream and user.startswith(f'{stream} ')):
                raise Violation(f'{use}: {made} is in use by {user}; synchronize first')
        return made.bytes_at + address - made.address, made.kind

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array over bytes that really live at an address."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_char * count).from_address(address)
        return np.frombuffer(buffer, dtype).reshape(shape)

    def live(self) -> list[Allocation]:
        """Return every allocation that was not freed."""
        return [made for made in self._made if not made.is_freed]

    def name(self, address: int) -> str:
        """Return what an address is, for a message."""
        made = self._at(address)
        if made is None:
            return f'{address:#x}, which is no memory of acl'
        if made.is_freed:
            return f'{address:#x}, which was freed already'
        return str(made) if address == made.address else f'{address:#x}, which is inside {made}'

    def _at(self, address: int) -> Allocation | None:
        position = bisect_right(self._made, address, key=attrgetter('address')) - 1
        if position < 0:
            return None
        made = self._made[position]
        return made if address < made.address + made.size else None

    def _release(self, made: Allocation) -> None:
        made.is_freed = True
        self.charged -= made.charge
        start, used = made.pages
        if made.bytes_at == made.address:
            _map(start, used, _PROT_NONE, _MAP_FIXED)
        else:
            _libc.munmap(start, used)


def _map(start: int | None, length: int, protection: int, flags: int = 0) -> int:
    address = _libc.mmap(start, length, protection, _PRIVATE | flags | _MAP_NORESERVE, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise Failure(200000, f'the machine has no {length} bytes of address space')
    return int(address)
