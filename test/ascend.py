"""A board that is simulated in this process, and artifacts that are compiled for it."""

import os
from pathlib import Path
import sys
from typing import Any
from unittest.mock import patch

SIMULATOR = Path(__file__).parent / 'ascend_sim'
sys.path.insert(0, str(SIMULATOR))

from tinyllama_ros.model.artifact import Artifact  # noqa: E402
from tinyllama_ros.model.atc import convert, plan_conversion  # noqa: E402
from tinyllama_ros.model.build import build  # noqa: E402
from tinyllama_ros.model.checkpoint import Checkpoint  # noqa: E402

FORMS = ('rc', 'ep')


def compiled(folder: Path, checkpoint: Checkpoint, **options: Any) -> Artifact:
    """Return an artifact that the simulator's atc has compiled; `options` of the build."""
    build(checkpoint, folder, target='ascend', **{
        'name': folder.name, 'quantization': 'fp32', 'kv_length': 48} | options)
    artifact = Artifact.open(folder)
    path = os.pathsep.join([str(SIMULATOR / 'bin'), os.environ.get('PATH', '')])
    with patch.dict('os.environ', PATH=path, ASCEND_SIM_PYTHON=sys.executable):
        return convert(artifact, plan_conversion(artifact.manifest))
