"""
The manifest of an artifact: the content of manifest.json, and the names of the other files.

One module reads and writes the manifest; folder.py compares it with what lies in the folder.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
import json

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.fields import from_fields, parse_json, shorten
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.errors import ArtifactError, ModelError

FORMAT_VERSION = 1
MANIFEST = 'manifest.json'
GRAPH = 'decoder.onnx'
WEIGHTS = 'decoder.onnx.data'
OM = 'decoder.om'
DIALECTS = ('cpu', 'ascend')
CPU_HEAD_DIM = 16
"""
The CPU dialect takes a head_dim that is a multiple of this.

ONNX Runtime's GroupQueryAttention refuses others where it rotates, and so do kernels/.
"""


@dataclass(frozen=True)
class FileRecord:
    """What a file of the artifact must be."""

    size: int
    """bytes"""
    sha256: str


@dataclass(frozen=True)
class HeldOutLoss:
    """Negative log-likelihood (nats per token) of text that was not calibrated on."""

    fp32: float
    quantized: float
    tokens: int


@dataclass(frozen=True)
class CompiledGraph:
    """How a decoder.om was compiled."""

    soc_version: str
    """The chip that it is for, such as ``Ascend310B4``; empty if unknown."""
    command: tuple[str, ...]
    """The command that compiled it; empty if unknown."""
    toolkit: str
    """Version of CANN; empty if it could not be read."""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    name: str
    quantization: str
    """``fp32``, ``fp16`` (only in the Ascend dialect) or ``w8a8``."""
    recipe: str
    """From what and how it was built, to find out whether it must be built again."""
    dialect: str
    """``cpu``: what the ONNX Runtime backend runs; ``ascend``: what ATC compiles."""
    kv_length: int
    """Slots of the cache."""
    chunk_sizes: tuple[int, ...]
    """
    Chunk lengths, ascending: of the CPU dialect those that the graph runs well; of the Ascend
    dialect the only ones that it is compiled for, as gears where there are several.
    """
    architecture: Architecture
    tokenizer: TokenizerSettings
    files: Mapping[str, FileRecord]
    w8a16: str = ''
    """For w8a8: the linears, out of quantize.W8A16_CHOICES, with activations of 16 bits."""
    held_out: HeldOutLoss | None = None
    """The loss of the quantised model, if the build measured it."""
    om: CompiledGraph | None = None
    """How decoder.om was compiled, if there is one."""

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise ModelError(f'dialect is {self.dialect!r}; known: {", ".join(DIALECTS)}')
        if self.om and self.dialect != 'ascend':
            raise ModelError(f'a compiled graph cannot come from the {self.dialect} dialect, only '
                             'from ascend')
        if self.dialect == 'cpu':
            check_cpu_head_dim(self.architecture, 'build for the target ascend, or use another '
                               'model')
        if self.kv_length < 2:
            raise ModelError(f'kv_length is {self.kv_length}; a cache needs at least 2 slots')
        if self.kv_length > self.architecture.context_length:
            raise ModelError(f'kv_length is {self.kv_length}; {self.name} was trained on at most '
                             f'{self.architecture.context_length} positions')
        steps = pairwise((0, *self.chunk_sizes))
        if not self.chunk_sizes or any(low >= high for low, high in steps):
            raise ModelError(f'chunk_sizes are {shorten(self.chunk_sizes)}; they must ascend from '
                             'above 0')
        if self.chunk_sizes[-1] > self.architecture.context_length:
            raise ModelError(f'a chunk of {self.chunk_sizes[-1]} tokens is longer than '
                             f'{self.name} can read: {self.architecture.context_length}')
        for text, token in self.tokenizer.control_tokens.items():
            if not 0 <= token < self.architecture.vocab_size:
                raise ModelError(f'the control token {shorten(text)} has the id {token}; the '
                                 f'embedding ends at {self.architecture.vocab_size - 1}')

    def to_json(self) -> str:
        """Return the content of manifest.json."""
        return json.dumps({'format_version': FORMAT_VERSION} | asdict(self), indent=1,
                          ensure_ascii=False) + '\n'

    @classmethod
    def from_json(cls, text: str) -> 'Manifest':
        """
        Return the manifest that a file holds.

        :raises ArtifactError: the file is of another version, or a field is missing or wrong.
        """
        try:
            fields = parse_json(text)
        except ValueError as error:
            raise ArtifactError(f'is not a valid manifest ({error})') from error
        if not isinstance(fields, dict) or 'format_version' not in fields:
            raise ArtifactError('is not a valid manifest (it has no format_version)')
        version = fields.pop('format_version')
        if type(version) is not int or version != FORMAT_VERSION:
            raise ArtifactError(f'has format version {shorten(version)}; this program reads '
                                f'version {FORMAT_VERSION}')
        if 'fine' in fields:  # what w8a16 was called until version 0.1
            fields['w8a16'] = fields.pop('fine')
        try:
            return from_fields(cls, fields)
        except (ValueError, ModelError) as error:
            raise ArtifactError(f'has a missing or wrong field ({error})') from error


def check_cpu_head_dim(architecture: Architecture, remedy: str) -> None:
    """Raise a ModelError, with the remedy, if the CPU dialect does not support head_dim."""
    if architecture.head_dim % CPU_HEAD_DIM:
        raise ModelError(f'head_dim is {architecture.head_dim}; ONNX Runtime on a CPU runs only '
                         f'multiples of {CPU_HEAD_DIM}: {remedy}')
