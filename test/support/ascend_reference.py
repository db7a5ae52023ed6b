"""
The Ascend dialect on ONNX Runtime, without a simulator: the smallest thing that gives its numbers.

AscendQuant becomes what the vendor's kernel computes: to float16, to the nearest whole number
with ties to even, limited to int8. The codes travel as uint8 with zero point 128, for which ONNX
Runtime has a fast product.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime as ort

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.backend import BackendShape
from tinyllama_ros.engine.host import has_vnni

CONSTANTS = {'lowest': np.float32(-128), 'highest': np.float32(127), 'shift': np.float32(128),
             'zero_point': np.uint8(128)}


def runnable(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield what stands in for a node."""
    if node.op_type == 'MatMulInteger':
        # ascend_sim/acl/rewrite.py says why the weights have one, and why each node has its own.
        name = f'{node.output[0]}/weight_zero_point'
        zero = numpy_helper.from_array(np.array(0, np.int8))
        yield helper.make_node('Constant', [], [name], value=zero)
        node.input.extend(['zero_point', name])
    if node.op_type != 'AscendQuant':
        yield node
        return
    assert {each.name: helper.get_attribute_value(each) for each in node.attribute} == {
        'scale': 1.0, 'offset': 0.0, 'sqrt_mode': 0, 'round_mode': b'Round', 'dst_type': b'INT8'}
    path, name = node.output[0], node.input[0]
    for op, inputs, attributes in (
            ('Cast', [], {'to': TensorProto.FLOAT16}), ('Cast', [], {'to': TensorProto.FLOAT}),
            ('Round', [], {}), ('Clip', ['lowest', 'highest'], {}), ('Add', ['shift'], {})):
        step = f'{path}/{op}/{len(name)}'
        yield helper.make_node(op, [name, *inputs], [step], **attributes)
        name = step
    yield helper.make_node('Cast', [name], [path], to=TensorProto.UINT8)


def open_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """Return a graph in the Ascend dialect, loaded; what stands in for it is written beside it."""
    model = onnx.load(path, load_external_data=False)
    nodes = [stand_in for node in model.graph.node for stand_in in runnable(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name)
                                   for name, value in CONSTANTS.items())
    stand_in_path = path.with_name(f'runnable-{path.name}')
    stand_in_path.write_bytes(model.SerializeToString())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry('session.x64quantprecision', '0' if has_vnni() else '1')
    return ort.InferenceSession(stand_in_path, options, providers=['CPUExecutionProvider'])


class ReferenceBackend:
    """A backend that runs the Ascend dialect, and takes a chunk of any length."""

    def __init__(self, session: ort.InferenceSession, arch: Architecture, slots: int) -> None:
        self._session = session
        self.shape = BackendShape(slots, arch.vocab_size, (1, slots), pads=False)
        self.cache = np.zeros((arch.layers, 2, 1, arch.kv_heads, slots, arch.head_dim),
                              np.float16)

    @classmethod
    def of(cls, artifact: Artifact, threads: int = 1) -> 'ReferenceBackend':
        """Return the backend of an artifact."""
        manifest = artifact.manifest
        return cls(open_session(artifact.graph, threads), manifest.architecture,
                   manifest.kv_length)

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1,
                padding: int = 0) -> NDArray[np.float32]:
        """Run one chunk, with tokens of padding behind it; see Backend."""
        length = len(tokens)
        mask = np.zeros((1, self.shape.kv_length + length + padding), np.int64)
        mask[0, :start] = 1
        mask[0, self.shape.kv_length:self.shape.kv_length + length] = 1
        found, rows = self._session.run(['logits', 'out_key_values'], {
            'input_ids': np.pad(tokens, (0, padding))[None], 'attention_mask': mask,
            'position_ids': np.arange(start, start + length + padding)[None],
            'past_key_values': self.cache})
        self.cache[..., start:start + length, :] = rows[..., :length, :]
        return found[0, length - logits:length]

    def close(self) -> None:
        """Free nothing."""
