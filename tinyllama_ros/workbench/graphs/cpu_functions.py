"""
This project's operators in the CPU dialect, each as a function of ONNX Runtime's operators.

The functions define what the operators compute. kernels/ implements each of them in C++, and ONNX
Runtime runs that in place of the function where the library is registered with the session.

====================  ====================================================  ===================
operator              inputs                                                outputs
====================  ====================================================  ===================
GroupedLinear         x (..., in); weight (out, groups, group) uint8, zero  (..., out)
                      point 128; scale (out, groups): of each output
                      channel, the same for all of its groups
GatedLinear           the same, of gate and up side by side                 (..., out / 2)
W8A16Product          x (..., in); weight (out, in) int8; scale (out): of   (..., out)
                      each output channel, a 127th
Embedding             tokens (...) int64; weight, scale of a W8A16Product,   (..., in)
                      one output channel to a token; gain (in): 127 / what
                      the weight's columns were multiplied by. To fp16, as
                      an NPU has them
Attention             qkv (1, S, (heads + 2 kv_heads) head_dim); past key   (1, S, heads
                      and value (1, kv_heads, slots, head_dim); last_slot   head_dim); key and
                      (1) int32, of the chunk; fill_after () int32; cos,    value: the memory of
                      sin (slots, head_dim / 2)                             past's
Gate                  both (..., 2 width)                                   (..., width)
Norm                  block, residual (..., hidden); weight (hidden)        normed and sum
                                                                            (..., hidden)
====================  ====================================================  ===================

GroupedLinear is MatMulNBits with accuracy_level 4: a token's activations are rounded to int8, each
group in 127ths of its own largest magnitude. GatedLinear is GroupedLinear and Gate at once: what
lies between them is never written to memory. Embedding has no kernel: it always runs as the
function. Graphs that older versions made contain functions with other names (Linear, FineLinear),
for which there is no kernel: they run as functions.

In W8A16Product a token of zeros has peak 0, so its codes are arbitrary, and the last product makes
it zero again: no guard is needed. Activations travel as uint8 with zero point 128 there, which is
symmetric int8 to the letter: MLAS has no fast int8 x int8 product. The zero point of the weights
is written because ONNX Runtime 1.23, the last for Python 3.10, aborts without it on x86 without
VNNI. QuickGelu is x * sigmoid(alpha * x); alpha = 1 makes it SiLU.
"""

import numpy as np
from onnx import FunctionProto, parser, TensorProto

from tinyllama_ros.workbench.graphs.graph_writer import MICROSOFT
from tinyllama_ros.workbench.quantization.quantize import QMAX, RESIDUAL_STEPS

OURS = 'tinyllama_ros'
OPSETS = {'': 17, MICROSOFT: 1, OURS: 1}

_HEADER = f'<domain: "{OURS}", opset_import: ["": 17, "{MICROSOFT}": 1, "{OURS}": 1]>'

_FUNCTIONS = (
    f"""{_HEADER}
GroupedLinear <in, out, group> (x, weight, scale) => (y) {{
    y = {MICROSOFT}.MatMulNBits
        <K: int = @in, N: int = @out, block_size: int = @group, bits = 8, accuracy_level = 4>
        (x, weight, scale)
}}""", f"""{_HEADER}
GatedLinear <in, out, group> (x, weight, scale) => (y) {{
    both = {OURS}.GroupedLinear <in: int = @in, out: int = @out, group: int = @group>
        (x, weight, scale)
    y = {OURS}.Gate (both)
}}""", f"""{_HEADER}
W8A16Product (x, weight, scale) => (y) {{
    zero_point = Constant <value = uint8 {{128}}> ()
    weight_zero_point = Constant <value = int8 {{0}}> ()
    one = Constant <value = float {{1}}> ()
    step = Constant <value = float {{{np.float32(1 / QMAX)!s}}}> ()
    residual_step = Constant <value = float {{{np.float32(1 / (QMAX * RESIDUAL_STEPS))!s}}}> ()
    residual_share = Constant <value = float {{{np.float32(1 / RESIDUAL_STEPS)!s}}}> ()
    magnitude = Abs (x)
    peak = ReduceMax <axes = [-1]> (magnitude)
    scaled = Div (x, peak)
    coarse = QuantizeLinear (scaled, step, zero_point)
    rounded = DequantizeLinear (coarse, step, zero_point)
    rest = Sub (scaled, rounded)
    residual = QuantizeLinear (rest, residual_step, zero_point)
    codes = Concat <axis = 0> (coarse, residual)
    columns = Transpose <perm = [1, 0]> (weight)
    product = {MICROSOFT}.MatMulIntegerToFloat
        (codes, columns, one, scale, zero_point, weight_zero_point)
    first, second = Split <axis = 0> (product)
    part = Mul (second, residual_share)
    total = Add (first, part)
    y = Mul (total, peak)
}}""", f"""{_HEADER}
Embedding (tokens, weight, scale, gain) => (rows) {{
    codes = Gather (weight, tokens)
    whole = Cast <to = {TensorProto.FLOAT}> (codes)
    last = Constant <value = int64[1] {{-1}}> ()
    steps = Gather (scale, tokens)
    step = Unsqueeze (steps, last)
    scaled = Mul (whole, step)
    exact = Mul (scaled, gain)
    half = Cast <to = {TensorProto.FLOAT16}> (exact)
    rows = Cast <to = {TensorProto.FLOAT}> (half)
}}""", f"""{_HEADER}
Attention <num_heads, kv_num_heads> (qkv, past_key, past_value, last_slot, fill_after, cos, sin)
    => (attended, key, value) {{
    attended, key, value = {MICROSOFT}.GroupQueryAttention
        <num_heads: int = @num_heads, kv_num_heads: int = @kv_num_heads, do_rotary = 1>
        (qkv, , , past_key, past_value, last_slot, fill_after, cos, sin)
}}""", f"""{_HEADER}
Gate (both) => (gated) {{
    gate, up = Split <axis = -1> (both)
    silu = {MICROSOFT}.QuickGelu <alpha = 1.0> (gate)
    gated = Mul (silu, up)
}}""", f"""{_HEADER}
Norm <epsilon> (block, residual, weight) => (normed, sum) {{
    normed, mean, inverse, sum = {MICROSOFT}.SkipSimplifiedLayerNormalization
        <epsilon: float = @epsilon> (block, residual, weight)
}}""")


def cpu_functions() -> list[FunctionProto]:
    """Return the functions that a graph of the CPU dialect is made of."""
    return [parser.parse_function(text) for text in _FUNCTIONS]
