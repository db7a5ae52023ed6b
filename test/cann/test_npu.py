"""What npu-smi prints is read, in every layout that was seen of it."""

import pytest
from support.npu_smi import ORANGE_PI

from tinyllama_ros.cann.npu import Npu, parse, read_npu

ONE_COLUMN = """\
   | NPU     Name             Health   Power(W)     Temp(C)           Hugepages-Usage(page) |
   | Chip    Device           Bus-Id   AICore(%)    Memory-Usage(MB)                        |
   | 0       310B1            OK       12.8         45                0    / 0              |
   | 0       0                0000:00:00.0 0        2433 / 7564                             |
"""
CARDS = """\
| 4     910B3               | OK            | 91.4        38                0    / 0             |
| 0                         | 0000:82:00.0  | 0           2190 / 15137      3352 / 65536         |
| 5     910B3               | Warning       | 90.1        40                0    / 0             |
| 0                         | 0000:83:00.0  | 0           0    / 0          3340 / 65536         |
"""
NO_POWER = """\
| 0       Ascend310B4           | OK              | NA           61                0 / 0          |
"""


@pytest.mark.parametrize(('text', 'npu'), [
    (ORANGE_PI, Npu('310B4', 'Alarm', 50, 2242 << 20, 7545 << 20)),
    (ONE_COLUMN, Npu('310B1', 'OK', 45, 2433 << 20, 7564 << 20)),
    (CARDS, Npu('910B3', 'OK', 38, 3352 << 20, 65536 << 20)),
    (NO_POWER, Npu('310B4', 'OK', 61, 0, 0)),
    ('', None),
    ('dcmi module initialize failed. ret is -8005\n', None),
    (ORANGE_PI.replace('310B4', '     '), None),
], ids=['orange pi', 'one column', 'cards', 'no power', 'nothing', 'failed', 'no name'])
def test_first_npu_of_the_table(text, npu):
    assert parse(text) == npu


def test_soc_version_is_what_atc_calls_it():
    assert parse(ORANGE_PI).soc_version == 'Ascend310B4'
    assert parse(NO_POWER).soc_version == 'Ascend310B4'


def test_machine_without_npu_smi_has_no_npu(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert read_npu() is None


def test_npu_smi_is_asked(monkeypatch, tmp_path):
    (tmp_path / 'npu-smi').write_text(f"#!/bin/sh\n[ $1 = info ] && echo '{ORANGE_PI}'\n")
    (tmp_path / 'npu-smi').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    assert read_npu() == Npu('310B4', 'Alarm', 50, 2242 << 20, 7545 << 20)
