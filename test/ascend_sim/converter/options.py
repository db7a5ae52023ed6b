"""The command line of atc."""

from collections.abc import Sequence
from dataclasses import dataclass
import re

from converter.errors import AtcError

_PRECISIONS = ('force_fp16', 'force_fp32', 'cube_fp16in_fp32out', 'must_keep_origin_dtype',
               'allow_fp32_to_fp16', 'allow_mix_precision', 'allow_mix_precision_fp16',
               'allow_mix_precision_bf16')
_PRECISIONS_V2 = ('fp16', 'origin', 'cube_fp16in_fp32out', 'mixed_float16', 'mixed_bfloat16')
_LOGS = ('debug', 'info', 'warning', 'error', 'null')
_CHIPS = ('Ascend310B1', 'Ascend310B2', 'Ascend310B3', 'Ascend310B4')
_IGNORED = frozenset("""
    ac_parallel_enable aicore_num auto_tune_mode buffer_optimize check_report core_type debug_dir
    deterministic disable_reuse_memory enable_scope_fusion_passes enable_single_stream
    enable_small_channel fusion_switch_file host_env_cpu host_env_os jit_compile mdl_bank_path
    op_bank_path op_compiler_cache_dir op_compiler_cache_mode op_debug_config op_debug_level
    op_precision_mode op_select_implmode optypelist_for_implmode quant_dumpable
    save_original_model status_check virtual_type
""".split())
"""How the compiler works and which kernels it takes: the numbers here do not depend on it."""
_NOT_MODELLED = frozenset("""
    cluster_config compress_weight_conf compression_optimize_conf customize_dtypes
    distributed_cluster_build dump_mode enable_compress_weight enable_graph_parallel
    graph_parallel_option_path input_fp16_nodes insert_op_conf is_input_adjust_hw_layout
    is_output_adjust_hw_layout json keep_dtype model_relation_config modify_mixlist om op_name_map
    out_nodes output_type shard_model_dir singleop sparsity
""".split())
"""What changes the inputs, outputs, types or numbers of the model, or makes something else of it.

Source: the pages of ATC's options in GE, docs/zh/user_guides/atc_tools/CLI_options."""
_UNCHANGED = {'is_input_adjust_hw_layout': 'false', 'is_output_adjust_hw_layout': 'false',
              'sparsity': '0', 'enable_compress_weight': 'false', 'enable_graph_parallel': '0',
              'distributed_cluster_build': '0', 'dump_mode': '0'}
"""Defaults of these options; giving such a value changes nothing."""
_KNOWN = frozenset("""
    framework model output input_format input_shape soc_version precision_mode precision_mode_v2
    dynamic_dims dynamic_batch_size dynamic_image_size input_shape_range external_weight
    log mode
""".split())
_SAMPLE = '"input_name1:n1,c1,h1,w1;input_name2:n2,c2,h2,w2"'


@dataclass(frozen=True)
class Options:
    """A checked command line."""

    model: str
    output: str
    soc_version: str
    shapes: dict[str, tuple[int, ...]]
    gears: tuple[tuple[int, ...], ...]
    kind: str
    """'static', 'dims' or 'batch'."""
    precision_mode: str
    input_format: str
    """'NCHW' or 'ND'; the model's inputs report it."""


def parse(arguments: Sequence[str]) -> Options:
    """Return the options; raises AtcError for what the real program refuses, in its words."""
    values = _split(arguments)
    for name, support in (('framework', '0(Caffe) or 1(MindSpore) or 3(TensorFlow) or 5(Onnx)'),
                          ('model', 'a model file'), ('output', 'a path'),
                          ('soc_version', 'a chip')):
        if name not in values:
            raise AtcError('E10007', name, support)
        if not values[name]:
            raise AtcError('E10054', name)
    _check_modelled(values)
    _choose(values, 'framework', ('5',), '')
    input_format = _choose(values, 'input_format', ('NCHW', 'ND'), 'NCHW')
    _choose(values, 'soc_version', _CHIPS, '')
    if values.get('log', 'null') not in _LOGS:
        raise AtcError('E10010', values['log'])
    if 'precision_mode' in values and 'precision_mode_v2' in values:
        raise AtcError('E10001', values['precision_mode'], 'precision_mode',
                       'precision_mode and precision_mode_v2 are mutually exclusive')
    precision = _choose(values, 'precision_mode', _PRECISIONS, 'force_fp16')
    if 'precision_mode_v2' in values:
        precision = _choose(values, 'precision_mode_v2', _PRECISIONS_V2, '')
    shapes = _shapes(values.get('input_shape', ''))
    gears, kind = _gears(values)
    _check_dynamic(values, shapes, gears, kind)
    return Options(values['model'], values['output'], values['soc_version'], shapes, gears, kind,
                   precision, input_format)


def _split(arguments: Sequence[str]) -> dict[str, str]:
    """Return `--name=value` and `--name value` as a dict."""
    values = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix('--').partition('=')
        if not argument.startswith('--') or name not in _KNOWN | _IGNORED | _NOT_MODELLED:
            raise AtcError('E10001', argument, 'atc', 'there is no such option')
        if not equals:
            if not rest:
                raise AtcError('E10054', name)
            value = rest.pop(0)
        values[name] = value
    return values


def _check_modelled(values: dict[str, str]) -> None:
    """Raise AtcError for options whose effect on the model the stand-in does not have."""
    for name, value in values.items():
        if name in _NOT_MODELLED and value != _UNCHANGED.get(name):
            raise AtcError('E10055', f'--{name} changes the model, and is not modelled by this '
                           'stand-in')
    for name, choices in (('mode', ('0', '1', '3', '5', '6', '30')),
                          ('external_weight', ('0', '1', '2'))):
        if _choose(values, name, choices, '0') != '0':
            raise AtcError('E10055', f'--{name}={values[name]} is not modelled by this stand-in')


def _choose(values: dict[str, str], name: str, choices: Sequence[str], default: str) -> str:
    value = values.get(name, default)
    if value not in choices:
        raise AtcError('E10001', value, name, f'The value must be {" or ".join(choices)}')
    return value


def _shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input that --input_shape names."""
    shapes = {}
    for part in filter(None, text.split(';')):
        name, found, dims = part.rpartition(':')
        if not found or not name:
            raise AtcError('E10002', text, 'The input name and its shape are separated by a colon',
                           _SAMPLE)
        if '~' in dims:
            raise AtcError('E10001', part, 'input_shape',
                           'shape ranges are not supported by this chip')
        shape = []
        for dim in filter(None, dims.split(',')):
            if not re.fullmatch(r'-?\d+', dim.strip()):
                raise AtcError('E10002', text, f'{dim} is not a number', _SAMPLE)
            shape.append(int(dim))
        shapes[name] = tuple(shape)
    for name, shape in shapes.items():
        for dim in shape:
            if dim < -1 or dim == 0:
                raise AtcError('E10011', f'{name}:{",".join(map(str, shape))}', dim)
    return shapes


def _gears(values: dict[str, str]) -> tuple[tuple[tuple[int, ...], ...], str]:
    dynamic = [name for name in ('dynamic_dims', 'dynamic_batch_size', 'dynamic_image_size',
                                 'input_shape_range') if values.get(name)]
    if len(dynamic) > 1:
        raise AtcError('E10009')
    if not dynamic:
        return (), 'static'
    name = dynamic[0]
    if name not in ('dynamic_dims', 'dynamic_batch_size'):
        raise AtcError('E10055', f'--{name} is not modelled by this stand-in')
    separator = ';' if name == 'dynamic_dims' else ','
    gears = []
    for part in values[name].strip(';').split(separator):
        numbers = part.split(',')
        if not all(re.fullmatch(r'\s*-?\d+\s*', number) for number in numbers):
            raise AtcError('E10001', values[name], name, f'{part} is not a list of numbers')
        gears.append(tuple(map(int, numbers)))
    if len(gears) < 2:
        raise AtcError('E10035', len(gears), 2)
    if len(gears) > 100:
        raise AtcError('E10036', len(gears), 100)
    for gear in gears:
        if len(gear) != len(gears[0]):
            raise AtcError('E10037', len(gears[0]), len(gear))
        for dim in gear:
            if dim <= 0:
                raise AtcError('E10038', dim)
    if len(set(gears)) != len(gears):
        raise AtcError('E10039')
    return tuple(gears), 'dims' if name == 'dynamic_dims' else 'batch'


def _check_dynamic(values: dict[str, str], shapes: dict[str, tuple[int, ...]],
                   gears: tuple[tuple[int, ...], ...], kind: str) -> None:
    """Compare the -1 in the shapes with the gears."""
    free = sum(dim == -1 for shape in shapes.values() for dim in shape)
    if not gears:
        for name, shape in shapes.items():
            if -1 in shape:
                raise AtcError('E10011', f'{name}:{",".join(map(str, shape))}', -1)
        return
    if free == 0:
        raise AtcError('E10040')
    if kind == 'dims':
        if values.get('input_format') != 'ND':
            raise AtcError('E10001', values.get('input_format', 'NCHW'), 'input_format',
                           'The value must be ND when dynamic_dims is used')
        if free > len(gears[0]):
            raise AtcError('E10045')
        if free < len(gears[0]):
            raise AtcError('E10001', values['dynamic_dims'], 'dynamic_dims',
                           f'a profile has {len(gears[0])} dimensions for {free} -1 axes')
