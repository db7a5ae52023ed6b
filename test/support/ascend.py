"""A board that is simulated in this process, and artifacts that are compiled for it."""

import os
from pathlib import Path
import sys
from typing import Any
from unittest.mock import patch

from support.paths import SIMULATOR
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.cann.atc import convert, plan_conversion
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.options import BuildOptions

FORMS = ('rc', 'ep')


def compiled(folder: Path, checkpoint: Checkpoint, **options: Any) -> Artifact:
    """Return an artifact that the simulator's atc has compiled; `options` of the build."""
    build(checkpoint, folder, BuildOptions(target='ascend', **{
        'name': folder.name, 'quantization': 'fp32', 'kv_length': 48} | options))
    artifact = Artifact.open(folder)
    path = os.pathsep.join([str(SIMULATOR / 'bin'), os.environ.get('PATH', '')])
    with patch.dict('os.environ', PATH=path, ASCEND_SIM_PYTHON=sys.executable):
        return convert(artifact, plan_conversion(artifact.manifest))
