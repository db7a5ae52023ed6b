"""acl.rt: memory and copies."""

import ctypes

from acl import codes
from acl.errors import Failure, Violation
from acl.process import call, current, Process
from acl.streams import stream_of

_DIRECTIONS = {codes.HOST_TO_HOST: ('host', 'host'), codes.HOST_TO_DEVICE: ('host', 'device'),
               codes.DEVICE_TO_HOST: ('device', 'host'),
               codes.DEVICE_TO_DEVICE: ('device', 'device')}


@call('ki', (0,), needs='context')
def malloc(size: int, policy: int) -> int:
    return _malloc(size, 'device')


@call('ki', (0,), needs='context')
def malloc_cached(size: int, policy: int) -> int:
    return _malloc(size, 'device')


@call('ki', (0,), needs='context')
def malloc_align32(size: int, policy: int) -> int:
    return _malloc(size, 'device')


@call('k', (0,), needs='context')
def malloc_host(size: int) -> int:
    return _malloc(size, 'host')


@call('k', needs='thread')
def free(address: int) -> None:
    _free(address, 'device')


@call('k', needs='thread')
def free_host(address: int) -> None:
    _free(address, 'host')


@call('kk', needs='context')
def mem_flush(address: int, size: int) -> None:
    _place(address, size, 'mem_flush', writes=False)


@call('kk', needs='context')
def mem_invalidate(address: int, size: int) -> None:
    _place(address, size, 'mem_invalidate', writes=False)


@call('i', (0, 0), needs='context')
def get_mem_info(attribute: int) -> tuple[int, int]:
    if attribute not in (0, 2, 3):  # this chip has DDR and no HBM
        raise Failure(codes.RT_INVALID_PARAM, f'no memory of attribute {attribute} here')
    memory = current().memory
    return memory.limit - memory.charged, memory.limit


@call('kkkki', needs='context')
def memcpy(target: int, target_size: int, source: int, count: int, kind: int) -> None:
    _check_copy(target, target_size, source, count, kind)
    if count:
        to, start, _, _ = _places(target, source, count, kind, 'memcpy')
        ctypes.memmove(to, start, count)


@call('kkkkik', needs='context')
def memcpy_async(target: int, target_size: int, source: int, count: int, kind: int, stream: int
                 ) -> None:
    process = current()
    _check_copy(target, target_size, source, count, kind)
    if kind == codes.HOST_TO_HOST and not process.is_rc:
        raise Failure(codes.RT_FEATURE_NOT_SUPPORT, 'host to host is never asynchronous')
    order = stream_of(stream, 'memcpy_async')
    if not count:
        return
    to, start, from_kind, to_kind = _places(target, source, count, kind, 'memcpy_async',
                                            order.name)
    staged = ctypes.string_at(start, count) if from_kind == 'pageable' else start
    order.submit(lambda: ctypes.memmove(to, staged, count) and None,
                 [made for made in [process.memory.find(source)] if made],
                 [made for made in [process.memory.find(target)] if made])
    if to_kind == 'pageable':  # only pinned memory is copied to behind the caller's back
        order.drain()


@call('kkkkkki', needs='context')
def memcpy2d(target: int, target_pitch: int, source: int, source_pitch: int, width: int,
             height: int, kind: int) -> None:
    process = current()
    if process.is_rc:
        raise Failure(codes.RT_FEATURE_NOT_SUPPORT, 'memcpy2d is not there in RC form')
    if kind not in (codes.HOST_TO_DEVICE, codes.DEVICE_TO_HOST):
        raise Failure(codes.INVALID_PARAM, f'memcpy2d takes kind 1 or 2, not {kind}')
    if not target or not source:
        raise Failure(codes.INVALID_PARAM, 'an address is null')
    if not 0 < width <= min(target_pitch, source_pitch) or not height:
        raise Failure(codes.RT_INVALID_PARAM, f'width {width}, height {height}, pitches '
                      f'{target_pitch} and {source_pitch}')
    to, to_kind = _place(target, target_pitch * (height - 1) + width, 'memcpy2d', writes=True)
    start, from_kind = _place(source, source_pitch * (height - 1) + width, 'memcpy2d',
                              writes=False)
    _check_kind(process, kind, from_kind, to_kind)
    for row in range(height):
        ctypes.memmove(to + row * target_pitch, start + row * source_pitch, width)
    process.moved[_kind_name(from_kind, to_kind)] += width * height


@call('kkik', needs='context')
def memset(address: int, size: int, value: int, count: int) -> None:
    _check_set(address, size, value, count)
    if count:
        place, kind = _place(address, count, 'memset', writes=True)
        _refuse_pageable(kind)
        ctypes.memset(place, value, count)
        current().moved['set'] += count


@call('kkikk', needs='context')
def memset_async(address: int, size: int, value: int, count: int, stream: int) -> None:
    process = current()
    _check_set(address, size, value, count)
    order = stream_of(stream, 'memset_async')
    if count:
        place, kind = _place(address, count, 'memset_async', writes=True, stream=order.name)
        _refuse_pageable(kind)
        made = process.memory.find(address)
        order.submit(lambda: ctypes.memset(place, value, count) and None, [], [made])
        process.moved['set'] += count


def _malloc(size: int, kind: str) -> int:
    if size == 0:
        raise Failure(codes.INVALID_PARAM, 'a size of 0 was asked for')
    return current().memory.allocate(size, kind).address


def _free(address: int, kind: str) -> None:
    if address == 0:
        raise Failure(codes.INVALID_PARAM, 'the address is null')
    current().memory.free(address, kind)


def _place(address: int, size: int, use: str, *, writes: bool, stream: str = ''
           ) -> tuple[int, str]:
    if not address:
        raise Failure(codes.INVALID_PARAM, f'{use}: an address is null')
    process = current()
    place, kind = process.memory.bytes_at(address, size, use=use, writes=writes, stream=stream)
    if kind == 'pageable':
        process.borrowed.check(address, size, use)
    return place, kind


def _check_copy(target: int, target_size: int, source: int, count: int, kind: int) -> None:
    if not target or not source:
        raise Failure(codes.INVALID_PARAM, 'an address is null')
    if count > target_size:
        raise Failure(codes.RT_INVALID_PARAM, f'{count} bytes do not fit into {target_size}')
    if kind not in (*_DIRECTIONS, codes.DEFAULT):
        raise Failure(codes.INVALID_PARAM, f'there is no memcpy kind {kind}')


def _places(target: int, source: int, count: int, kind: int, use: str, stream: str = ''
            ) -> tuple[int, int, str, str]:
    """Check and count a copy; return where the bytes really are, from and to which kind."""
    process = current()
    to, to_kind = _place(target, count, use, writes=True, stream=stream)
    start, from_kind = _place(source, count, use, writes=False, stream=stream)
    _check_kind(process, kind, from_kind, to_kind)
    process.moved[_kind_name(from_kind, to_kind)] += count
    return to, start, from_kind, to_kind


def _kind_name(from_kind: str, to_kind: str) -> str:
    """Return h2d, d2h, d2d or h2h, by where the bytes are."""
    return f'{_letter(from_kind)}2{_letter(to_kind)}'


def _letter(kind: str) -> str:
    return 'd' if kind == 'device' else 'h'


def _check_kind(process: Process, kind: int, from_kind: str, to_kind: str) -> None:
    """In EP form a direction that is not that of the addresses is refused."""
    if process.is_rc or kind == codes.DEFAULT:
        return
    found = tuple('device' if place == 'device' else 'host' for place in (from_kind, to_kind))
    if found != _DIRECTIONS[kind]:
        raise Failure(codes.RT_INVALID_PARAM,
                      f'kind {kind} copies {" to ".join(_DIRECTIONS[kind])}; '
                      f'these addresses are {" to ".join(found)}')


def _check_set(address: int, size: int, value: int, count: int) -> None:
    if not address:
        raise Failure(codes.INVALID_PARAM, 'the address is null')
    if count > size:
        raise Failure(codes.RT_INVALID_PARAM, f'{count} bytes do not fit into {size}')
    if not 0 <= value <= 255:
        raise Failure(codes.RT_INVALID_PARAM, f'{value} is no byte')


def _refuse_pageable(kind: str) -> None:
    if kind == 'pageable':
        raise Violation('memset of memory that is not from acl')
