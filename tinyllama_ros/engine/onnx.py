"""The static graph on any CPU, through ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import psutil

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.errors import BackendError, BackendLost
from tinyllama_ros.kernels import find_library, prefer_plain_attention

try:
    import onnxruntime as ort
except ImportError as error:
    raise BackendError('the onnx backend needs ONNX Runtime, which is not installed here; '
                       'run: pip install onnxruntime') from error


class OnnxBackend:
    """
    Runs the CPU dialect of the graph.

    Every buffer is made once. Past and present of the cache are bound to the same memory, so a
    step appends its rows in place and copies nothing.
    """

    pads = False

    def __init__(self, artifact: Artifact, *, threads: int = 0, own_kernels: bool = True) -> None:
        """
        Load an artifact.

        :param threads: 0 takes the physical cores that this process may use.
        :param own_kernels: run our operators by our kernels, where those are; see kernels/.
        """
        manifest = artifact.manifest
        if manifest.dialect != 'cpu':
            raise BackendError(f'{artifact.folder} holds a graph in the {manifest.dialect} '
                               'dialect; the onnx backend runs the cpu dialect: build that')
        self.kv_length = manifest.kv_length
        self.vocab_size = manifest.architecture.vocab_size
        self.chunk_sizes = manifest.chunk_sizes
        self._session: ort.InferenceSession | None = _load(
            artifact, threads or physical_cores(), own_kernels)
        _check_shapes(self._session, artifact)
        longest = self.chunk_sizes[-1]
        self._tokens = np.zeros((1, longest), np.int64)
        self._rows = np.arange(longest, dtype=np.int64)
        self._last_slot = np.zeros(1, np.int32)
        self._fill_after = np.zeros((), np.int32)
        self._logits = np.zeros((1, self.vocab_size), np.float32)
        self._cache = _empty_cache(self._session)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        """Run one chunk; see Backend."""
        assert self._session is not None, 'the backend is closed'
        length = len(tokens)
        assert 0 < length <= min(self.chunk_sizes[-1], self.kv_length - start), (length, start)
        assert 0 <= tokens.min() and tokens.max() < self.vocab_size, 'no such token'
        assert 0 <= logits <= length, (logits, length)
        key = length, logits
        if key not in self._bindings:
            self._bindings[key] = self._bind(self._session, length, logits)
        self._tokens[0, :length] = tokens
        self._last_slot[0] = start + length - 1
        self._fill_after[...] = start + length
        try:
            self._session.run_with_iobinding(self._bindings[key])
        except Exception as error:  # ONNX Runtime's errors share no base class but this
            raise BackendLost(f'ONNX Runtime failed on {length} tokens at slot {start}: {error}'
                              ) from error
        return self._logits[:logits]

    def close(self) -> None:
        """Free the session and the cache."""
        self._bindings.clear()
        self._cache.clear()
        self._session = None

    def _bind(self, session: ort.InferenceSession, length: int, logits: int) -> ort.IOBinding:
        """Return a binding of every input and output for one chunk length."""
        if logits > len(self._logits):
            self._bindings.clear()  # they point into the array that is replaced
            self._logits = np.zeros((self.chunk_sizes[-1], self.vocab_size), np.float32)
        binding = session.io_binding()
        for name, array in {
                'input_ids': self._tokens[:, :length],
                'last_slot': self._last_slot,
                'fill_after': self._fill_after,
                'logit_rows': self._rows[length - logits:length],
                **{f'past_{name}': array for name, array in self._cache.items()}}.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in {
                'logits': self._logits[:logits],
                **self._cache}.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding


def physical_cores() -> int:
    """Return how many physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def _load(artifact: Artifact, threads: int, own_kernels: bool) -> ort.InferenceSession:
    prefer_plain_attention()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    library = find_library() if own_kernels else None
    if library and library.instructions:
        options.register_custom_ops_library(str(library.path))
    # x86 without VNNI adds pairs of products in 16 bits, which saturate; ask for the exact kernel
    options.add_session_config_entry('session.x64quantprecision', '0' if _has_vnni() else '1')
    try:
        return ort.InferenceSession(str(artifact.graph), options,
                                    providers=['CPUExecutionProvider'])
    except Exception as error:  # see forward
        raise BackendError(f'ONNX Runtime could not load {artifact.graph}: {error}') from error


def _has_vnni() -> bool:
    """Return whether the CPU multiplies uint8 by int8 into 32 bits, so that nothing saturates."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace')
    except OSError:
        return False
    return '_vnni' in flags


def _empty_cache(session: ort.InferenceSession) -> dict[str, NDArray[np.float32]]:
    """
    Return every part of the cache, named as the outputs are.

    They lie in one array, for which numpy asks for large pages: of the default model, decoding
    from a full cache is 3 % faster.
    """
    shapes = {output.name: output.shape for output in session.get_outputs()
              if output.name != 'logits'}
    return dict(zip(shapes, np.zeros((len(shapes), *next(iter(shapes.values()))), np.float32),
                    strict=True))


def _check_shapes(session: ort.InferenceSession, artifact: Artifact) -> None:
    """Compare what the manifest says with what the graph is."""
    manifest = artifact.manifest
    arch = manifest.architecture
    expected: dict[str, list[int | str]] = {
        f'{kind}.{layer}': [1, arch.kv_heads, manifest.kv_length, arch.head_dim]
        for layer in range(arch.layers) for kind in ('key', 'value')}
    expected['logits'] = ['R', arch.vocab_size]
    found = {output.name: output.shape for output in session.get_outputs()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise BackendError(
                f'{artifact.graph}: {name} has the shape {found.get(name)}, the manifest makes it '
                f'{expected.get(name)} (logits: rows, vocabulary; cache: 1, kv_heads, kv_length, '
                'head_dim); build the artifact again')
