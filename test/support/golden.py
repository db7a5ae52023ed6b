"""Reference answers of the default model."""

import json
import os

import pytest

from support.paths import DATA

GOLDEN = json.loads(
    (DATA / 'smollm2-135m-golden.json').read_text(encoding='utf-8'))
NAME = 'smollm2-135m-instruct'
needs_default_model = pytest.mark.skipif('TINYLLAMA_ROS_OFFLINE' in os.environ,
                                reason='TINYLLAMA_ROS_OFFLINE is set')
each_case = pytest.mark.parametrize('case', GOLDEN['cases'], ids=range(len(GOLDEN['cases'])))
