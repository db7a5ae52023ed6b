"""
Defines and checks the options of a build.

It also defines the targets and their defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.manifest import Manifest
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.quantization.quantize import check_w8a16, GROUP
from tinyllama_ros.workbench.quantization.smooth import check_smoothing

KV_LENGTH = 1024
"""Default number of slots of the cache."""
PIPELINE = 'recipe 5'
"""Part of the recipe; increase it when the same options give other numbers than before."""


@dataclass(frozen=True)
class Target:
    """What an artifact is built for, and the defaults of a build for it."""

    quantizations: tuple[str, ...]
    chunk_sizes: tuple[int, ...]
    """Chunk lengths, ascending."""
    w8a16: str
    """Linears, out of quantize.W8A16_CHOICES, that are W8A16 in a w8a8 build."""
    group: int = 0
    """Input channels of a token that share a scale in a W8A8 linear; 0: all of them."""


TARGETS: Mapping[str, Target] = {
    # Chunks of more than 64 tokens would gain little, and a cancel would wait longer. A product of
    # many rows takes time in proportion to its rows, so W8A16 everywhere would slow prefill down.
    'cpu': Target(('w8a8', 'fp32'), (1, 16, 64), 'none', GROUP),
    # A further chunk length makes the .om half as large again or twice as large. A cube unit
    # multiplies 16 rows in the time of one, so W8A16 costs little; and it is needed, since float16
    # around the products moves numbers across the middle between two steps of 8 bits.
    'ascend': Target(('w8a8', 'fp16', 'fp32'), (1,), 'all'),
}


@dataclass(frozen=True)
class BuildOptions:
    """
    What to build from a checkpoint.

    :raises ConfigError: the target, the quantization, w8a16 or the smoothing is unknown.
    """

    name: str
    """Name of the artifact in its manifest."""
    quantization: str = 'w8a8'
    target: str = 'cpu'
    kv_length: int | None = None
    """Slots; by default 1024, or the model's context length if that is shorter."""
    chunk_sizes: tuple[int, ...] = ()
    """Chunk lengths, ascending; by default those of the target."""
    w8a16: str = ''
    """For w8a8: out of quantize.W8A16_CHOICES; by default that of the target."""
    smoothing: str = 'refined'
    """For w8a8: refined, searched, an alpha in 0..1, or none (no calibration)."""
    text: Path | None = None
    """UTF-8 text to calibrate on; by default the project's own text."""
    source: str = ''
    """Identifies the checkpoint and its version."""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConfigError(f'target {self.target!r} is unknown; known: {", ".join(TARGETS)}')
        known = TARGETS[self.target].quantizations
        if self.quantization not in known:
            raise ConfigError(f'quantization {self.quantization!r} is unknown for the target '
                              f'{self.target}; known: {", ".join(known)}')
        if self.w8a16:
            check_w8a16(self.w8a16)
        check_smoothing(self.smoothing)

    @property
    def is_calibrated(self) -> bool:
        """Whether the build reads a calibration text."""
        return self.quantization == 'w8a8' and self.smoothing != 'none'

    @property
    def recipe(self) -> str:
        """One line for the manifest that says from what and how the artifact is built."""
        text = [f'text {identity(self.text)}'] if self.text else []
        return ', '.join([self.source, f'smoothing {self.smoothing}', *text, PIPELINE])

    def manifest(self, architecture: Architecture, tokenizer: TokenizerSettings) -> Manifest:
        """
        Return the manifest of the artifact to build, without its files.

        :raises ModelError: the options do not fit the model.
        """
        return Manifest(architecture=architecture, tokenizer=tokenizer, files={},
                        **self._fields(architecture))

    def describes(self, manifest: Manifest) -> bool:
        """Return whether a build with these options would give an artifact with this manifest."""
        return manifest == replace(manifest, **self._fields(manifest.architecture))

    def _fields(self, architecture: Architecture) -> dict[str, Any]:
        target = TARGETS[self.target]
        slots = (min(KV_LENGTH, architecture.context_length) if self.kv_length is None
                 else self.kv_length)
        return {'name': self.name, 'quantization': self.quantization, 'recipe': self.recipe,
                'dialect': self.target, 'kv_length': slots,
                'chunk_sizes': self.chunk_sizes or target.chunk_sizes,
                'w8a16': self.w8a16 or target.w8a16 if self.quantization == 'w8a8' else ''}


def identity(path: Path) -> str:
    """Return a text that changes when a file, or a file in a folder, changes."""
    path = path.resolve()
    files = sorted(file for file in (path, *path.glob('*')) if file.is_file())
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f'{path} {sha256(repr(stats).encode()).hexdigest()[:16]}'
