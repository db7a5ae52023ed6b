"""
Which ONNX operators the stock parser has, and with which types the chip's AI Core has kernels.

Sources: the *_onnx_plugin.cpp of hicann's ops-nn, ops-math, ops-cv and ops-transformer (2026);
aic-ascend310b-ops-info.json of CANN 8.1.RC1.
"""

import os
from pathlib import Path

from acl.graphs import attribute
import onnx
from onnx import TensorProto

from converter.errors import AtcError, message

FIRST_OPSET, LAST_OPSET = 8, 18

_EVERYWHERE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Ceil Cos Cosh Det Div Dropout Equal Erf Exp Expand
    Floor GlobalAveragePool Greater Identity Less LessOrEqual Log Mul Neg Not Or PRelu Pow Range
    Reciprocal Relu Round ScatterND Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Tan Tanh Tile
    Where ArgMax ArgMin AveragePool BatchNormalization Cast Celu Clip Concat ConstantOfShape Conv
    ConvTranspose CumSum DepthToSpace Einsum Elu EyeLike Flatten GRU Gather GatherElements GatherND
    Gemm GlobalLpPool GlobalMaxPool HardSigmoid Hardmax If InstanceNormalization LRN LSTM LeakyRelu
    LogSoftmax LpNormalization LpPool MatMul Max MaxPool MaxRoiPool Mean Min Multinomial Pad
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape RoiAlign Selu Shape
    Size Slice Softmax SpaceToDepth Split Squeeze Sum Transpose Unsqueeze Upsample Xor TopK
    Constant AscendQuant AscendDequant AscendAntiQuant ReduceL1 ReduceL2
""".split()
_SINCE = {
    'BitwiseAnd': 18, 'BitwiseNot': 18, 'BitwiseOr': 18, 'BitwiseXor': 18, 'CastLike': 15,
    'HardSwish': 14, 'IsNaN': 9, 'Triu': 13, 'Bernoulli': 15, 'BitShift': 11, 'Col2Im': 18,
    'Compress': 9, 'ConcatFromSequence': 11, 'IsInf': 10, 'LayerNormalization': 17,
    'MaxUnpool': 9, 'MeanVarianceNormalization': 9, 'Mish': 18, 'Mod': 10,
    'NonMaxSuppression': 10, 'NonZero': 9, 'OneHot': 9, 'Resize': 10, 'ReverseSequence': 10,
    'ScatterElements': 11, 'SequenceAt': 11, 'SequenceConstruct': 11, 'SequenceEmpty': 11,
    'SequenceErase': 11, 'SequenceInsert': 11, 'SequenceLength': 11, 'Shrink': 9,
    'SoftmaxCrossEntropyLoss': 12, 'SplitToSequence': 11, 'ThresholdedRelu': 10, 'Trilu': 14,
    'Unique': 11, 'Scatter': 9, 'GridSample': 16, 'GreaterOrEqual': 12,
    **{name: FIRST_OPSET for name in _EVERYWHERE}}
_UNTIL = {'Triu': 16, 'ReduceL1': 17, 'ReduceL2': 17, 'Scatter': 11}

_FLOATS = 'float16 float'
_TYPES = {name: frozenset(types.split()) for name, types in {
    'Abs': f'{_FLOATS} int32', 'Sub': f'{_FLOATS} int32 int64 uint8 int8 bool',
    'Div': f'{_FLOATS} int32 int8 uint8', 'ReduceMax': f'{_FLOATS} int8 uint8 int32 int64',
    'ReduceMean': _FLOATS, 'ReduceSum': f'{_FLOATS} int32 int64', 'Sqrt': _FLOATS,
    'Sigmoid': _FLOATS, 'Neg': f'{_FLOATS} int32 int8', 'Exp': _FLOATS, 'Sin': _FLOATS,
    'Pow': f'{_FLOATS} int32 int8 uint8', 'Expand': f'{_FLOATS} int32 uint8 int8 bool',
    'Max': f'{_FLOATS} int32 int64 int8', 'Min': f'{_FLOATS} int32 int64 int8',
    'Round': f'{_FLOATS} int32', 'Range': f'{_FLOATS} int32', 'AscendQuant': _FLOATS,
    'Equal': f'{_FLOATS} int32 int64 int8 uint8 bool', 'Tile': f'{_FLOATS} int32 bool int64',
    'Less': f'{_FLOATS} int32 int64 int8 uint8', 'Greater': f'{_FLOATS} int32 int64 int8 uint8',
    'Softmax': _FLOATS}.items()}
"""Of the first input. What is not in the table has no such limit that matters here."""
_ABSENT = frozenset({'Trilu', 'TopK'})
"""The parser takes them; the AI Core has no kernel."""
_CASTS = frozenset("""
    float16>float float16>int32 float>float16 float>int32 int32>float16 int32>float int32>int8
    int32>uint8 int32>bool int8>float16 int8>float int8>int32 uint8>float16 uint8>float uint8>int32
    bool>float16 bool>float bool>int32 bool>uint8 float16>uint8 float16>int8 float16>bool
    int64>float float>int64 int64>int32 int32>int64 int64>float16 float16>int64 float>bool
    float>uint8
""".split())


def check_known(model: onnx.ModelProto) -> None:
    """Raise AtcError where the parser does not know an operator in the model's opset."""
    opsets = {entry.domain or 'ai.onnx': entry.version for entry in model.opset_import}
    if len(model.opset_import) > 1 and any(not node.domain for node in model.graph.node):
        raise AtcError('E16005', len(model.opset_import))
    plugins = installed_plugins()
    unknown = {}
    for node in model.graph.node:
        domain = node.domain or 'ai.onnx'
        if domain not in opsets:
            raise AtcError('E19999', f'opset of domain[{domain}] has no responding version')
        opset = opsets[domain]
        is_stock = (domain == 'ai.onnx' and _SINCE.get(node.op_type, 99) <= opset
                    <= _UNTIL.get(node.op_type, LAST_OPSET))
        is_custom = (domain == 'ai.onnx' and FIRST_OPSET <= opset <= LAST_OPSET
                     and node.op_type == 'MatMulInteger' and node.op_type.encode() in plugins)
        if not is_stock and not is_custom:
            unknown[f'{domain}::{opset}::{node.op_type}'] = node
    if unknown:
        names = sorted(unknown)
        error = AtcError('E16002', names[0])
        for name in names[1:]:
            error.also('E16002', name)
        raise error


def check_operators(model: onnx.ModelProto, types: dict[str, int]) -> list[str]:
    """
    Return warnings for nodes that the AI Core has no kernel for.

    :raises AtcError: where the chip cannot place an operator at all.
    """
    warnings = []
    for node in model.graph.node:
        given = [_type_name(types.get(name, 0)) for name in node.input]
        if node.op_type == 'MatMulInteger':
            _check_product(node, given)
        elif node.op_type == 'AscendQuant':
            _check_quantization(node)
        if node.op_type in _ABSENT or not _has_kernel(node, given):
            warnings.append(message('W11001', node.name or node.op_type)
                            + f' ({node.op_type} of {given[0] if given else "nothing"})')
    return warnings


def installed_plugins() -> bytes:
    """Return the content of every custom parser that the environment leads to."""
    folders = [Path(entry) for entry in
               os.environ.get('ASCEND_CUSTOM_OPP_PATH', '').split(':') if entry]
    if os.environ.get('ASCEND_OPP_PATH'):
        vendors = Path(os.environ['ASCEND_OPP_PATH']) / 'vendors'
        try:
            config = (vendors / 'config.ini').read_text(encoding='utf-8')
        except OSError:
            config = ''
        for line in config.splitlines():
            key, _, names = line.partition('=')
            if key.strip() == 'load_priority':
                folders += [vendors / name.strip() for name in names.split(',') if name.strip()]
    return b'\n'.join(library.read_bytes() for folder in folders
                      for library in sorted((folder / 'framework' / 'onnx').glob('*.so')))


def _check_product(node: onnx.NodeProto, given: list[str]) -> None:
    if len(node.input) != 2:
        raise AtcError('E19999', f'{node.name}: MatMulInteger with {len(node.input)} inputs: the '
                       'third of BatchMatMulV2 is its bias')
    if given != ['int8', 'int8']:
        raise AtcError('E19999', f'{node.name}: BatchMatMulV2 of {" and ".join(given)}; this chip '
                       'has int8 and int8')


def _check_quantization(node: onnx.NodeProto) -> None:
    for name in ('scale', 'offset'):
        kinds = [found.type for found in node.attribute if found.name == name]
        if kinds not in ([onnx.AttributeProto.FLOAT], []):
            raise AtcError('E19999', f'{node.name}: attribute {name} must be a float')
    if not attribute(node, 'scale', 0.0):
        raise AtcError('E19999', f'{node.name}: attribute scale is 0, or missing')
    if attribute(node, 'round_mode', 'Round') not in ('Round', 'Floor', 'Ceil', 'Trunc'):
        raise AtcError('E19999', f'{node.name}: attribute round_mode is none of the four')
    if attribute(node, 'dst_type', 'INT8') != 'INT8':
        raise AtcError('E10055', f'{node.name}: this stand-in only quantizes to INT8')


def _has_kernel(node: onnx.NodeProto, given: list[str]) -> bool:
    if node.op_type == 'Cast' and given[0]:
        target = _type_name(int(str(attribute(node, 'to', 0))))
        return given[0] == target or f'{given[0]}>{target}' in _CASTS
    allowed = _TYPES.get(node.op_type)
    return allowed is None or not given or given[0] in allowed | {''}


def _type_name(element: int) -> str:
    return TensorProto.DataType.Name(element).lower() if element else ''
