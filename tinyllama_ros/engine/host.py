"""Reads this machine's cores and instruction sets, and sets up ONNX Runtime's environment."""

from contextlib import suppress
import ctypes
import os
from pathlib import Path

import psutil

M_MMAP_THRESHOLD = -3
LARGE_BUFFER = 256 * 1024
"""Bytes: above the logits of a vocabulary of 49152, which are made for each token."""


def physical_cores() -> int:
    """Return how many physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def has_vnni() -> bool:
    """Return whether the CPU multiplies uint8 by int8 into 32-bit sums, without saturation."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace')
    except OSError:
        return False
    return '_vnni' in flags


def prefer_plain_attention() -> None:
    """
    Make ONNX Runtime use its plain attention in sessions that are opened from now on.

    Its tiled (flash) attention takes 2 to 2.5 times as long at these lengths, gives slightly other
    numbers, and saves little memory here (8 MB at 1024 slots). There is no session option for it,
    only this environment variable, so every program that opens the CPU backend calls this at its
    start.
    """
    os.environ.setdefault('ORT_GQA_DISABLE_FLASH_ATTENTION', '1')


def return_large_buffers() -> None:
    """
    Have every large buffer returned to the system as soon as it is freed.

    By itself, glibc raises the size from which it does so to that of each buffer that is freed.
    Prompts of a megabyte then lie in the heap, among what is kept, and leave holes in it: in a
    soak of the node 20 MB in 3 minutes. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER)


def turn_off_telemetry() -> None:
    """
    Keep ONNX Runtime from sending anything; called before it is imported.

    Its official builds from 1.29 on send events to their vendor and keep a device id below
    ~/.cache, unless this variable says otherwise when they are loaded (its docs/Privacy.md).
    """
    os.environ['ORT_DISABLE_TELEMETRY'] = '1'
