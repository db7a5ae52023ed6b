"""Runs the static graph on any CPU, through ONNX Runtime."""

from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.contract import (
    cpu_outputs,
    FILL_AFTER,
    INPUT_IDS,
    LAST_SLOT,
    LOGIT_ROWS,
    LOGITS,
    past_of,
    Tensors,
)
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import GRAPH, WEIGHTS
from tinyllama_ros.engine.backend import BackendShape
from tinyllama_ros.engine.host import has_vnni, physical_cores
from tinyllama_ros.engine.mapped_file import MappedFile
from tinyllama_ros.engine.ort_session import InferenceSession, IOBinding, open_session, OrtValue
from tinyllama_ros.errors import BackendError, BackendLost, model_command, reason_of


class OnnxBackend:
    """
    Runs the CPU dialect of the graph.

    Every buffer is allocated once. The cache's inputs and outputs are bound to the same memory, so
    a pass appends its rows in place and copies nothing.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 0, own_kernels: bool = True) -> None:
        """
        Load an artifact.

        :param threads: 0 means one for each physical core that this process may use.
        :param own_kernels: use this project's kernels if they were compiled; see kernels/.
        """
        manifest = artifact.manifest
        if manifest.dialect != 'cpu':
            raise BackendError(f'{artifact.folder} holds a graph in the {manifest.dialect} '
                               'dialect; the onnx backend runs the cpu dialect: build the model '
                               f'again with {model_command()} build --target cpu')
        self.shape = BackendShape(manifest.kv_length, manifest.architecture.vocab_size,
                                  manifest.chunk_sizes, pads=False)
        outputs = cpu_outputs(manifest.architecture, manifest.kv_length)
        self._weights = MappedFile.of(artifact, WEIGHTS)
        self._session: InferenceSession | None = None
        try:
            with closing(MappedFile.of(artifact, GRAPH)) as graph:
                # Without VNNI, ONNX Runtime adds pairs of products in 16 bits, which can saturate;
                # the option selects its exact kernel
                self._session = open_session(
                    artifact.graph, own_kernels=own_kernels, inter_op_num_threads=1,
                    intra_op_num_threads=threads or physical_cores(),
                    entries={'session.x64quantprecision': '0' if has_vnni() else '1'})
                graph.check()
            self._weights.check()
            _check_shapes(self._session, outputs, artifact)
        except BaseException:
            self._weights.close()
            raise
        longest = min(self.shape.chunk_sizes[-1], self.shape.kv_length)
        self._tokens = np.zeros((1, longest), np.int64)
        self._rows = np.arange(longest, dtype=np.int64)
        self._last_slot = np.zeros(1, np.int32)
        self._fill_after = np.zeros((), np.int32)
        self._logits = np.zeros((1, self.shape.vocab_size), np.float32)
        self._cache = _empty_cache(outputs)
        self._cache_values = {name: OrtValue.ortvalue_from_numpy(array)
                              for name, array in self._cache.items()}  # for all bindings
        self._bindings: dict[tuple[int, int], IOBinding] = {}

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        """Run one chunk; see Backend."""
        assert self._session is not None, 'the backend is closed'
        length = len(tokens)
        self.shape.check_pass(tokens, start, logits)
        key = length, logits
        if key not in self._bindings:
            self._bindings[key] = self._bind(self._session, length, logits)
        self._tokens[0, :length] = tokens
        self._last_slot[0] = start + length - 1
        self._fill_after[...] = start + length
        try:
            self._session.run_with_iobinding(self._bindings[key])
        except Exception as error:  # see open_session
            raise BackendLost(f'ONNX Runtime failed on {length} tokens at slot {start}: '
                              f'{reason_of(error)}') from error
        self._weights.check()
        return self._logits[:logits]

    def close(self) -> None:
        """Free the session and the cache."""
        self._bindings.clear()
        self._cache_values.clear()
        self._cache.clear()
        self._session = None
        self._weights.close()

    def _bind(self, session: InferenceSession, length: int, logits: int) -> IOBinding:
        """Return a binding of every input and output for one chunk length."""
        if logits > len(self._logits):
            self._bindings.clear()  # they point into the array that is replaced
            self._logits = np.zeros((self._tokens.size, self.shape.vocab_size), np.float32)
        binding = session.io_binding()
        for name, array in {
                INPUT_IDS: self._tokens[:, :length],
                LAST_SLOT: self._last_slot,
                FILL_AFTER: self._fill_after,
                LOGIT_ROWS: self._rows[length - logits:length]}.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_output(LOGITS, OrtValue.ortvalue_from_numpy(self._logits[:logits]))
        for name, value in self._cache_values.items():
            binding.bind_ortvalue_input(past_of(name), value)
            binding.bind_ortvalue_output(name, value)
        return binding


def _empty_cache(outputs: Tensors) -> dict[str, NDArray[np.float32]]:
    """
    Return every part of the cache, named as the outputs are.

    They are one array, for which numpy asks for large pages: decoding of the default model with a
    full cache is 3 % faster.
    """
    names = [name for name in outputs if name != LOGITS]
    shape = map(int, outputs[names[0]].shape)
    return dict(zip(names, np.zeros((len(names), *shape), np.float32), strict=True))


def _check_shapes(session: InferenceSession, outputs: Tensors, artifact: Artifact) -> None:
    """Compare the shapes of the graph's outputs with those of the manifest."""
    expected = {name: list(tensor.shape) for name, tensor in outputs.items()}
    graph = {output.name: output.shape for output in session.get_outputs()}
    for name in sorted(expected.keys() | graph.keys()):
        if graph.get(name) != expected.get(name):
            raise BackendError(
                f'{artifact.graph}: {name} has the shape {graph.get(name)}, by the manifest it is '
                f'{expected.get(name)} (logits: rows, vocabulary; cache: 1, kv_heads, kv_length, '
                'head_dim); build the artifact again')
