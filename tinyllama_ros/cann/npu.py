"""Reads the state of the NPU from the output of the program npu-smi."""

from dataclasses import dataclass
from itertools import pairwise
import re
import subprocess

TIMEOUT_S = 20
_NAME = re.compile(r'^\|\s*\d+\s+(?:Ascend)?(\d{3}\w*)[ |]+(\S+)(.*)$')
_TEMPERATURE = re.compile(r'(?:\d+\.\d+|NA|-)\s+(\d+)')
_USAGE = re.compile(r'(\d+)\s*/\s*(\d+)')


@dataclass(frozen=True)
class Npu:
    """The first NPU of this machine."""

    name: str
    """As npu-smi shows it, such as ``310B4``."""
    health: str
    temperature_c: int | None
    memory_used: int
    """bytes"""
    memory_total: int
    """bytes; 0 where npu-smi does not report it"""

    @property
    def soc_version(self) -> str:
        """The name of the chip in ATC and pyACL."""
        return f'Ascend{self.name}'

    @property
    def is_310b(self) -> bool:
        """Whether it is the chip of the boards, for which the graphs are made."""
        return self.name.startswith('310B')


def read_npu() -> Npu | None:
    """Return the NPU of this machine; None where npu-smi is missing, fails or shows none."""
    try:
        run = subprocess.run(['npu-smi', 'info'], capture_output=True, text=True,
                             errors='replace', timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(run.stdout)


def parse(text: str) -> Npu | None:
    """
    Return the first NPU of the table that ``npu-smi info`` prints.

    Its first row has name, health, power and temperature, the second the use of its memory in MB.
    """
    for line, below in pairwise([*text.splitlines(), '']):
        if row := _NAME.match(line.strip()):
            name, health, rest = row.groups()
            temperature = _TEMPERATURE.search(rest)
            usage = [(int(used), int(total)) for used, total in _USAGE.findall(below)
                     if int(total)]
            used, total = usage[-1] if usage else (0, 0)
            return Npu(name, health, int(temperature[1]) if temperature else None,
                       used << 20, total << 20)
    return None
