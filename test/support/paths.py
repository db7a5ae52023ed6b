"""Where the folders of the repository are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST = ROOT / 'test'
DATA = TEST / 'data'
SIMULATOR = TEST / 'ascend_sim'
