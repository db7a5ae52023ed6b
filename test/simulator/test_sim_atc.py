"""The stand-in for atc: options, shapes, gears, operators, files."""

import os
from pathlib import Path
import re
import subprocess
import sys

from acl import container
from converter.__main__ import main as atc
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest
from support.ascend_graphs import HEAD_DIM, HEADS, LAYERS, SLOTS, write_decoder
from support.paths import SIMULATOR

CACHE = f'past_key_values:{LAYERS},2,1,{HEADS},{SLOTS},{HEAD_DIM}'
STATIC = f'input_ids:1,1;attention_mask:1,{SLOTS + 1};position_ids:1,1;{CACHE}'
OPEN = f'input_ids:1,-1;attention_mask:1,-1;position_ids:1,-1;{CACHE}'
GEARS = f'1,{SLOTS + 1},1;4,{SLOTS + 4},4'


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Work in a folder with decoder.onnx and geared.onnx, a plugin installed."""
    plugin = tmp_path / 'opp/vendors/customize/framework/onnx/libcust_onnx_parsers.so'
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(b'\x7fELF ai.onnx::13::MatMulInteger')
    (tmp_path / 'opp/vendors/config.ini').write_text('load_priority=customize\n')
    monkeypatch.setenv('ASCEND_OPP_PATH', str(tmp_path / 'opp'))
    monkeypatch.chdir(tmp_path)
    write_decoder(tmp_path / 'decoder.onnx')
    write_decoder(tmp_path / 'geared.onnx', chunk='chunk')
    return tmp_path


def run(capsys, *changes: str, model: str = 'decoder.onnx') -> tuple[int, str]:
    """Return exit status and output of a conversion; a change like `--mode=` replaces or adds."""
    options = {'framework': '5', 'model': model, 'output': 'out', 'input_format': 'ND',
               'input_shape': STATIC, 'soc_version': 'Ascend310B4',
               'precision_mode': 'must_keep_origin_dtype'}
    for change in changes:
        name, _, value = change.partition('=')
        options.pop(name, None)
        if value != 'NONE':
            options[name] = value
    status = atc([f'--{name}={value}' for name, value in options.items()])
    return status, capsys.readouterr().out


def write_graph(path: Path, *nodes: onnx.NodeProto, opset: int = 13,
                dtype: int = TensorProto.FLOAT, imports: tuple = (), **constants: np.ndarray
                ) -> None:
    """Write a graph from x (2, 4) to y."""
    graph = helper.make_graph(
        nodes, 'graph', [helper.make_tensor_value_info('x', dtype, [2, 4])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid('', opset), *imports]), path)


def test_program_converts_and_says_so(toolkit):
    program = SIMULATOR / 'bin' / 'atc'
    done = subprocess.run(
        [program, '--framework=5', '--model=decoder.onnx', '--output=decoder',
         f'--input_shape={STATIC}', '--soc_version', 'Ascend310B4', '--log=info'],
        capture_output=True, text=True, env={**os.environ, 'ASCEND_SIM_PYTHON': sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'ATC run success' in done.stdout
    assert (toolkit / 'kernel_meta').is_dir() and (toolkit / 'fusion_result.json').is_file()
    assert container.is_container((toolkit / 'decoder.om').read_bytes())


def test_weights_start_at_pages_of_the_file_itself(toolkit, capsys):
    assert run(capsys)[0] == 0
    data = (toolkit / 'out.om').read_bytes()
    content = container.read(lambda start, length: data[start:start + length], len(data))
    found = {tensor.name: {entry.key: entry.value for entry in tensor.external_data}
             for tensor in content.model.graph.initializer if tensor.external_data}
    assert set(found) == {'embedding', 'head'}
    for tensor in onnx.load(toolkit / 'decoder.onnx').graph.initializer:
        if tensor.name in found:
            place = {key: int(value) for key, value in found[tensor.name].items()
                     if key != 'location'}
            assert place['offset'] % 4096 == 0
            assert data[place['offset']:][:place['length']] == tensor.raw_data
    assert content.plan.soc_version == 'Ascend310B4'
    assert content.plan.precision_mode == 'must_keep_origin_dtype'


@pytest.mark.parametrize(('changes', 'message'), [
    (['framework=NONE'], r'E10007: --\[framework\] is required'),
    (['soc_version=NONE'], r'E10007: --\[soc_version\]'),
    (['model='], r'E10054: The required parameter \[model\] for ATC is empty'),
    (['soc_version=Ascend910'], r'E10001: Value \[Ascend910\] for parameter \[soc_version\]'),
    (['framework=3'], 'E10001'), (['input_format=NHWC'], 'E10001'), (['log=loud'], 'E10010'),
    (['colour=red'], r'E10001: Value \[--colour=red\]'),
    (['precision_mode=best'], 'E10001'), (['external_weight=1'], 'E10055'),
    (['external_weight=9'], 'E10001'), (['mode=9'], 'E10001'),
    (['precision_mode_v2=origin'], 'mutually exclusive'),
    (['input_shape=input_ids'], 'E10002'), (['input_shape=input_ids:1,x'], 'E10002'),
    (['input_shape=input_ids:1,0'], r'E10011: .*error value in the shape is \[0\]'),
    (['input_shape=input_ids:1,-1'], r'E10011: .*\[-1\]'),
    (['input_shape=input_ids:1,1~8'], 'shape ranges are not supported'),
    (['input_shape=ids:1,1'], r'E10016: Op name \[ids\] specified in --\[input_shape\]'),
    (['input_shape=input_ids:1'], r'E10049: Dimension count \[1\]'),
    (['model=none.onnx'], r'E13001: Failed to open file \[none.onnx\]'),
    (['output=none/out'], 'E13004'),
    (['dynamic_dims=1;2', 'dynamic_batch_size=1,2'], 'E10009'),
    (['dynamic_dims=1'], r'E10035: .*\[1\] profiles, which is less than the minimum \[2\]'),
    (['dynamic_dims=' + ';'.join(map(str, range(1, 102)))], 'E10036'),
    (['dynamic_dims=1;1,2'], 'E10037'), (['dynamic_dims=1;0'], 'E10038'),
    (['dynamic_dims=1;1'], 'E10039'), (['dynamic_dims=1;2'], 'E10040'),
    (['dynamic_dims=1;2', f'input_shape={OPEN}'], 'E10045'),
    (['dynamic_dims=1,1,1,1;2,2,2,2', f'input_shape={OPEN}'], 'E10001'),
    (['dynamic_dims=1;2', f'input_shape={OPEN}', 'input_format=NCHW'], 'must be ND'),
    (['dynamic_image_size=1,1;2,2'], 'E10055'),
], ids=str)
def test_bad_options_are_answered_as_the_real_program_does(toolkit, capsys, changes, message):
    status, output = run(capsys, *changes)
    assert status == 255
    assert 'ATC run failed' in output and 'success' not in output
    assert re.search(message, output), output
    assert not list(toolkit.glob('out.om*'))


@pytest.mark.parametrize('option', [
    'insert_op_conf=aipp.cfg', 'output_type=FP16', 'output_type=bogus', 'out_nodes=nosuch:0',
    'input_fp16_nodes=input_ids', 'keep_dtype=keep.cfg', 'modify_mixlist=mix.json',
    'customize_dtypes=types.cfg', 'compression_optimize_conf=quant.cfg', 'sparsity=1',
    'is_input_adjust_hw_layout=true', 'is_output_adjust_hw_layout=true', 'singleop=op.json',
    'enable_compress_weight=true', 'op_name_map=map.cfg', 'mode=1', 'mode=3'])
def test_option_that_changes_the_model_is_refused_as_not_modelled(toolkit, capsys, option):
    status, output = run(capsys, option)
    assert status == 255 and 'success' not in output
    assert re.search(r'E10055: The operation is not supported. Reason: \[--'
                     f'{option.partition("=")[0]}.*not modelled by this stand-in', output), output
    assert not list(toolkit.glob('out.om*'))


@pytest.mark.parametrize('option', [
    'sparsity=0', 'is_input_adjust_hw_layout=false', 'op_select_implmode=high_precision'])
def test_option_that_leaves_the_model_as_it_is_is_accepted(toolkit, capsys, option):
    assert run(capsys, option)[0] == 0


def test_open_shapes_need_gears(toolkit, capsys):
    status, output = run(capsys, 'input_shape=NONE', model='geared.onnx')
    assert status == 255 and 'no dynamic shapes' in output
    assert run(capsys, f'input_shape={OPEN}', f'dynamic_dims={GEARS}', model='geared.onnx')[0] == 0


def test_int8_product_needs_the_plugin(toolkit, capsys):
    (toolkit / 'opp/vendors/config.ini').write_text('load_priority=other\n')
    status, output = run(capsys)
    assert status == 255
    assert ('E16002: No ONNX parser is registered for optype [ai.onnx::13::MatMulInteger].'
            in output)


@pytest.mark.parametrize(('opset', 'op', 'known'), [
    (13, 'Relu', True), (18, 'Relu', True), (19, 'Relu', False), (13, 'Gelu', False),
    (13, 'QuantizeLinear', False), (13, 'DynamicQuantizeLinear', False), (17, 'Softmax', True),
    (13, 'Trilu', False), (16, 'LayerNormalization', False)], ids=str)
def test_operators_are_known_by_opset(toolkit, capsys, opset, op, known):
    write_graph(toolkit / 'g.onnx', helper.make_node(op, ['x'], ['y'], name='node'), opset=opset)
    status, output = run(capsys, 'input_shape=NONE', model='g.onnx')
    assert (status == 0) == known
    assert (f'E16002: No ONNX parser is registered for optype [ai.onnx::{opset}::{op}]'
            in output) != known


def test_shapes_that_do_not_fit_together_are_refused(toolkit, capsys):
    write_graph(toolkit / 'g.onnx', helper.make_node('MatMul', ['x', 'x'], ['y']))
    status, output = run(capsys, 'input_shape=NONE', model='g.onnx')
    assert status == 255 and 'E19999' in output and 'does not follow' in output


def test_second_opset_is_refused(toolkit, capsys):
    write_graph(toolkit / 'g.onnx', helper.make_node('Relu', ['x'], ['y']),
                imports=(helper.make_opsetid('com.microsoft', 1),))
    assert 'E16005: The model has [2] --domain_version fields' in run(
        capsys, 'input_shape=NONE', model='g.onnx')[1]


@pytest.mark.parametrize(('constants', 'inputs', 'message'), [
    ({'w': np.ones((4, 2), np.uint8)}, ['c', 'w'], 'int8 and uint8; this chip has int8'),
    ({'w': np.ones((4, 2), np.int8), 'z': np.int8(0)}, ['c', 'w', 'z'], 'exactly two inputs'),
], ids=['uint8', 'zero point'])
def test_products_that_the_chip_lacks_are_refused(toolkit, capsys, constants, inputs, message):
    write_graph(
        toolkit / 'g.onnx', helper.make_node('AscendQuant', ['x'], ['c'], scale=1.0, offset=0.0),
        helper.make_node('MatMulInteger', inputs, ['p'], name='product'),
        helper.make_node('Cast', ['p'], ['y'], to=TensorProto.FLOAT),
        **{name: np.asarray(array) for name, array in constants.items()})
    status, output = run(capsys, 'input_shape=NONE', model='g.onnx')
    assert status == 255 and message in output, output


@pytest.mark.parametrize(('attributes', 'message'), [
    ({'scale': 1, 'offset': 0.0}, 'scale must be a float'), ({}, 'scale is 0'),
    ({'scale': 1.0, 'dst_type': 'INT4'}, 'INT4'), ({'scale': 1.0, 'round_mode': 'Up'}, 'Up')],
    ids=['int', 'missing', 'INT4', 'rounding'])
def test_quantisations_that_go_wrong_are_refused(toolkit, capsys, attributes, message):
    write_graph(toolkit / 'g.onnx', helper.make_node('AscendQuant', ['x'], ['c'], **attributes),
                helper.make_node('Cast', ['c'], ['y'], to=TensorProto.FLOAT))
    status, output = run(capsys, 'input_shape=NONE', model='g.onnx')
    assert status == 255 and message in output, output


@pytest.mark.parametrize(('nodes', 'dtype', 'warned'), [
    ([helper.make_node('Cast', ['x'], ['c'], to=TensorProto.INT8)], TensorProto.FLOAT, True),
    ([helper.make_node('Cast', ['x'], ['c'], to=TensorProto.INT8)], TensorProto.FLOAT16, False),
    ([helper.make_node('Abs', ['x'], ['c'])], TensorProto.INT64, True),
    ([helper.make_node('Abs', ['x'], ['c'])], TensorProto.FLOAT16, False)],
    ids=['fp32 to int8', 'fp16 to int8', 'int64 Abs', 'fp16 Abs'])
def test_nodes_without_a_kernel_are_warned_of(toolkit, capsys, nodes, dtype, warned):
    write_graph(toolkit / 'g.onnx', *nodes,
                helper.make_node('Cast', ['c'], ['y'], to=TensorProto.FLOAT), dtype=dtype)
    status, output = run(capsys, 'input_shape=NONE', model='g.onnx')
    assert status == 0 and ('W11001' in output) == warned


def test_weights_may_be_links(toolkit, capsys):
    (toolkit / 'there').mkdir()
    (toolkit / 'there' / 'decoder.onnx.data').hardlink_to(toolkit / 'decoder.onnx.data')
    (toolkit / 'there' / 'decoder.onnx').symlink_to(toolkit / 'decoder.onnx')
    assert run(capsys, model='there/decoder.onnx')[0] == 0


def test_weights_cut_short_or_moved_are_named(toolkit, capsys):
    weights = toolkit / 'decoder.onnx.data'
    os.truncate(weights, 5000)
    status, output = run(capsys)
    assert status == 255 and ('E13003' in output or 'E13001' in output)
    weights.unlink()
    assert 'E13001: Failed to open file' in run(capsys)[1]


def test_rubbish_is_no_model(toolkit, capsys):
    (toolkit / 'g.onnx').write_bytes(b'rubbish that is no protobuf')
    assert 'E10041: Failed to load the model' in run(capsys, model='g.onnx')[1]
    (toolkit / 'g.onnx').write_bytes(b'')
    assert 'E16004' in run(capsys, model='g.onnx')[1]
