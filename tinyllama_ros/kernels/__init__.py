"""
C++ operators for ONNX Runtime, and the function that finds their compiled library.

``pip install`` and ``colcon build`` compile them where there is a C++ compiler, for every
instruction set; choose_kernels.cc selects one when the library is loaded. If none fits, ONNX
Runtime composes the same operators from its own (workbench/graphs/cpu_functions.py), which is
slower and gives the same numbers.

=================================  ==============================================================
library.cc                         what ONNX Runtime calls to register the operators
product_operators.h,               the operators: they check inputs, pack weights, divide the work
attention_operator.h,              among threads; on onnxruntime_calls.h and onnxruntime_abi.h
elementwise_operators.h
kernels.h                          the interface between operators and instruction sets
kernels_body.h and what it         what the operators compute, written once for all instruction
includes                           sets
avx512.cc, avx_vnni.cc, avx2.cc    the instruction sets; amx_kernels.h is products by AMX
mapped_file.cc                     keeps a mapped file that is cut short from ending the process
=================================  ==============================================================

It must not import anything of this project but the errors.
"""

from contextlib import suppress
import ctypes
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name('library.so.1')


@dataclass(frozen=True)
class Library:
    """What ONNX Runtime loads, and the instructions of this processor that it uses."""

    path: Path
    instructions: str


def find_library() -> Library | None:
    """Return the library, or None if it was not compiled."""
    return Library(PATH, _instructions(PATH)) if PATH.exists() else None


def guard_mapped_file(descriptor: int) -> None:
    """
    Have whoever reads a mapping of an open file beyond its end read zeros, and not get SIGBUS.

    Does nothing where the library was not compiled.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(str(PATH)).GuardMappedFile(descriptor)


def _instructions(path: Path) -> str:
    """Return the name of the instruction set that is used; empty if this processor has none."""
    try:
        instructions = ctypes.CDLL(str(path)).Instructions
    except (OSError, AttributeError):  # compiled for another machine, or another version
        return ''
    instructions.restype = ctypes.c_char_p
    name: bytes = instructions()
    return name.decode()
