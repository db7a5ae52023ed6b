"""The stand-in for acl: models, from a graph or an .om, and running them."""

import json
import subprocess
import sys

import acl
from acl import simulator
from acl.rewrite import rewrite
from converter.__main__ import main as atc
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime as ort
import pytest
from support.ascend_graphs import (
    expected_logits,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    SLOTS,
    VOCABULARY,
    write_decoder,
)
from support.ascend_programs import check, CopyingProgram, ViewingProgram
from support.paths import SIMULATOR, TEST

STATIC = (f'input_ids:1,1;attention_mask:1,{SLOTS + 1};position_ids:1,1;'
          f'past_key_values:{LAYERS},2,1,{HEADS},{SLOTS},{HEAD_DIM}')
OPEN = (f'input_ids:1,-1;attention_mask:1,-1;position_ids:1,-1;'
        f'past_key_values:{LAYERS},2,1,{HEADS},{SLOTS},{HEAD_DIM}')
OPTIONS = ['--framework=5', '--input_format=ND', '--soc_version=Ascend310B4',
           '--precision_mode=must_keep_origin_dtype']


@pytest.fixture(autouse=True)
def fresh_board():
    """Forget what a test did."""
    simulator.reset()
    yield
    simulator.reset()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder with decoder.onnx, decoder.om, geared.om (1 and 4 tokens) and a plugin."""
    folder = tmp_path_factory.mktemp('models')
    plugin = folder / 'opp/vendors/customize/framework/onnx/libcust_onnx_parsers.so'
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(b'ai.onnx::13::MatMulInteger')
    (folder / 'opp/vendors/config.ini').write_text('load_priority=customize\n')
    write_decoder(folder / 'decoder.onnx')
    write_decoder(folder / 'geared.onnx', chunk='chunk')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ASCEND_OPP_PATH', str(folder / 'opp'))
        patch.chdir(folder)
        assert atc([*OPTIONS, '--model=decoder.onnx', '--output=decoder',
                    f'--input_shape={STATIC}']) == 0
        assert atc([*OPTIONS, '--model=geared.onnx', '--output=geared', f'--input_shape={OPEN}',
                    f'--dynamic_dims=1,{SLOTS + 1},1;4,{SLOTS + 4},4']) == 0
    return folder


def step(token: int, fill: int) -> list[np.ndarray]:
    """Return the inputs of a decoding step."""
    mask = np.zeros((1, SLOTS + 1), np.int64)
    mask[0, :fill] = mask[0, -1] = 1
    return [np.array([[token]]), mask, np.array([[fill]]),
            np.zeros((LAYERS, 2, 1, HEADS, SLOTS, HEAD_DIM), np.float16)]


def up(form: str, **settings) -> None:
    simulator.reset(form=form, **settings)
    check(acl.init())
    check(acl.rt.set_device(0))


@pytest.mark.parametrize('file', ['decoder.onnx', 'decoder.om'])
@pytest.mark.parametrize(('program', 'form'), [
    (CopyingProgram, 'rc'), (CopyingProgram, 'ep'), (ViewingProgram, 'rc')],
    ids=['copies-rc', 'copies-ep', 'views'])
def test_programs_get_the_numbers_of_the_graph_and_leave_nothing(folder, file, program, form):
    simulator.reset(form=form)
    running = program(str(folder / file))
    for token, fill in ((5, 0), (9, 3), (63, SLOTS - 1)):
        logits, rows = running.run(step(token, fill))
        assert np.array_equal(logits, expected_logits([token], fill + 1))
        assert rows.shape == (LAYERS, 2, 1, HEADS, 1, HEAD_DIM)
    running.close()
    simulator.assert_clean()


def test_program_of_views_fails_in_ep_form(folder):
    simulator.reset(form='ep')
    with pytest.raises(simulator.Violation, match='ptr_to_numpy'), pytest.warns(Warning):
        ViewingProgram(str(folder / 'decoder.om'))


def test_bytes_moved_are_those_that_were_copied(folder):
    simulator.reset(form='ep')
    running = CopyingProgram(str(folder / 'decoder.om'))
    simulator.moved.clear()
    running.run(step(1, 0)[:3])
    assert simulator.moved == {'h2d': 8 + 8 * (SLOTS + 1) + 8,
                               'd2h': 4 * VOCABULARY + 2 * LAYERS * 2 * HEADS * HEAD_DIM}


def test_watch_counts_what_the_host_writes_into_views(folder):
    simulator.reset(form='rc', watch=True)
    running = ViewingProgram(str(folder / 'decoder.om'))
    running.run(step(1, 0))
    simulator.moved.clear()
    running.views[0][3][0, 0, 0, 0, :2] = 1  # two rows of 32 bytes: one line
    running.run([])
    assert simulator.moved == {'written': 64}


def test_uninitialised_cache_shows_as_nan(folder):
    simulator.reset(form='rc')
    running = CopyingProgram(str(folder / 'decoder.om'))
    assert np.isnan(running.run(step(1, 0)[:3])[0]).all()


@pytest.mark.parametrize(('options', 'number'), [
    (['--input_format=NCHW'], 0), ([], 0), (['--input_format=ND'], 2)], ids=str)
def test_inputs_report_the_format_that_the_model_was_converted_with(
        folder, tmp_path, monkeypatch, options, number):
    monkeypatch.setenv('ASCEND_OPP_PATH', str(folder / 'opp'))
    monkeypatch.chdir(tmp_path)
    assert atc(['--framework=5', f'--model={folder}/decoder.onnx', '--output=formatted',
                f'--input_shape={STATIC}', '--soc_version=Ascend310B4', *options]) == 0
    up('rc')
    description = acl.mdl.create_desc()
    check(acl.mdl.get_desc(description, check(acl.mdl.load_from_file('formatted.om'))))
    assert {acl.mdl.get_input_format(description, index) for index in range(4)} == {number}


def test_description_of_a_static_model(folder):
    up('rc')
    model = check(acl.mdl.load_from_file(str(folder / 'decoder.om')))
    assert model == 1
    description = acl.mdl.create_desc()
    check(acl.mdl.get_desc(description, model))
    assert acl.mdl.get_num_inputs(description) == 4
    assert acl.mdl.get_num_outputs(description) == 2
    assert acl.mdl.get_input_dims(description, 1) == (
        {'name': 'attention_mask', 'dimCount': 2, 'dims': [1, SLOTS + 1]}, 0)
    assert acl.mdl.get_output_dims(description, 0)[0]['dims'] == [1, 1, VOCABULARY]
    assert acl.mdl.get_input_dims(description, 4) == ({}, 100000)
    assert acl.mdl.get_input_size_by_index(description, 0) == 8
    assert [acl.mdl.get_input_data_type(description, index) for index in range(5)
            ] == [9, 9, 9, 1, -1]
    assert [acl.mdl.get_input_format(description, index) for index in (0, 4)] == [2, -1]
    assert acl.mdl.get_input_index_by_name(description, 'position_ids') == (2, 0)
    assert acl.mdl.get_input_index_by_name(description, 'ascend_mbatch_shape_data')[1] != 0
    assert acl.mdl.get_input_dynamic_gear_count(description, -1) == (0, 0)
    assert acl.mdl.get_dynamic_batch(description) == ({'batchCount': 0, 'batch': []}, 0)
    name = acl.mdl.get_output_name_by_index(description, 0)
    assert 'logits' in name and name != 'logits'


def test_gears_are_listed_chosen_and_followed(folder):
    simulator.reset(form='ep')
    running = CopyingProgram(str(folder / 'geared.om'))
    description = running.description
    assert acl.mdl.get_num_inputs(description) == 5
    assert acl.mdl.get_input_dims(description, 0)[0]['dims'] == [1, -1]
    assert acl.mdl.get_input_size_by_index(description, 0) == 4 * 8
    count = check(acl.mdl.get_input_dynamic_gear_count(description, -1))
    gears = check(acl.mdl.get_input_dynamic_dims(description, -1, count))
    cache = [LAYERS, 2, 1, HEADS, SLOTS, HEAD_DIM]
    assert [gear['dims'] for gear in gears] == [
        [1, length, 1, SLOTS + length, 1, length, *cache] for length in (1, 4)]
    index = check(acl.mdl.get_input_index_by_name(description, 'ascend_mbatch_shape_data'))
    for tokens, gear in (([7], gears[0]), ([1, 2, 3, 4], gears[1]), ([8], gears[0])):
        check(acl.mdl.set_input_dynamic_dims(running.model, running.inputs, index, gear))
        logits, rows = running.run([
            np.array([tokens]), np.ones((1, SLOTS + len(tokens)), np.int64),
            np.array([tokens]), np.zeros(cache, np.float16)])
        assert np.array_equal(logits, expected_logits(tokens, SLOTS + len(tokens)))
        assert rows.shape[4] == len(tokens)
    running.close()
    simulator.assert_clean()


@pytest.mark.parametrize(('change', 'expected'), [
    ({'dims': [1, 2, 1, SLOTS + 2, 1, 2, LAYERS, 2, 1, HEADS, SLOTS, HEAD_DIM]}, 145013),
    ({'dimCount': 3}, 145013), ({'dims': (1, 1)}, TypeError),
    ({'dims': [np.int64(1)]}, TypeError)],
    ids=['no gear', 'count', 'tuple', 'numpy'])
def test_gears_that_do_not_fit_are_refused(folder, change, expected):
    running = CopyingProgram(str(folder / 'geared.om'))
    gear = {'name': '', 'dimCount': 12, **{
        'dims': [1, 1, 1, SLOTS + 1, 1, 1, LAYERS, 2, 1, HEADS, SLOTS, HEAD_DIM]}, **change}

    def choose() -> int:
        return acl.mdl.set_input_dynamic_dims(running.model, running.inputs, 4, gear)
    if expected is TypeError:
        with pytest.raises(TypeError):
            choose()
    else:
        assert choose() == expected


def test_models_load_from_memory_in_the_form_s_own_way(folder):
    data = (folder / 'decoder.om').read_bytes()
    up('ep')
    assert acl.mdl.load_from_mem(acl.util.bytes_to_ptr(data), len(data)) == (1, 0)
    address = check(acl.rt.malloc(len(data), 0))
    check(acl.rt.memcpy(address, len(data), acl.util.bytes_to_ptr(data), len(data), 1))
    with pytest.raises(simulator.Violation, match='EP form it wants host memory'):
        acl.mdl.load_from_mem(address, len(data))
    up('rc')
    address = check(acl.rt.malloc(len(data), 0))
    check(acl.rt.memcpy(address, len(data), acl.util.bytes_to_ptr(data), len(data), 1))
    assert acl.mdl.load_from_mem(address, len(data)) == (1, 0)
    check(acl.rt.free(address))


def test_memory_may_be_lent_to_a_model_and_may_not_be_freed_then(folder):
    up('ep')
    path = str(folder / 'decoder.om')
    work, weights = check(acl.mdl.query_size(path))
    assert 0 <= weights - 3 * VOCABULARY * HIDDEN < 256  # small constants
    places = [check(acl.rt.malloc(size, 0)) for size in (work, weights)]
    used = simulator.memory_used()
    assert acl.mdl.load_from_file_with_mem(path, places[0], work - 1, 0, 0) == (0, 145000)
    model = check(acl.mdl.load_from_file_with_mem(path, places[0], work, places[1], weights))
    assert simulator.memory_used() == used
    with pytest.raises(simulator.Violation, match='loaded model 1'):
        acl.rt.free(places[0])
    check(acl.mdl.unload(model))
    check(acl.rt.free(places[0]))


def test_models_load_by_configuration(folder):
    up('rc')
    handle = acl.mdl.create_config_handle()
    assert acl.mdl.load_with_config(handle) == (0, 100000)
    check(acl.mdl.set_config_opt(handle, 1, 1))
    check(acl.mdl.set_config_opt(handle, 2, str(folder / 'decoder.om')))
    assert acl.mdl.load_with_config(handle) == (1, 0)
    assert acl.mdl.set_config_opt(handle, 99, 1) == 100000
    check(acl.mdl.destroy_config_handle(handle))


@pytest.mark.parametrize(('damage', 'code'), [
    (lambda data: None, 145002), (lambda data: b'', 100013), (lambda data: data[:-1], 145006),
    (lambda data: data[:5000], 145006), (lambda data: data[:40], 100013),
    (lambda data: b'MZ' + data[2:], 100013),
    (lambda data: data.replace(b'"inputs"', b'"outputs"'), 100012),
    (lambda data: data[:16] + b'\2' + data[17:], 100012),
], ids=['absent', 'empty', 'cut', 'cut early', 'no header', 'foreign', 'damaged', 'version'])
def test_bad_files_have_their_codes(folder, tmp_path, damage, code):
    up('rc')
    data = damage((folder / 'decoder.om').read_bytes())
    if data is not None:
        (tmp_path / 'bad.om').write_bytes(data)
    assert acl.mdl.load_from_file(str(tmp_path / 'bad.om')) == (0, code)
    assert simulator.memory_used() == 0


def test_model_of_another_chip_is_refused(folder):
    up('rc', soc='Ascend310B1')
    assert acl.mdl.load_from_file(str(folder / 'decoder.om')) == (0, 100013)
    assert 'compiled for Ascend310B4, this device is Ascend310B1' in acl.get_recent_err_msg()


def test_model_that_does_not_fit_takes_nothing(folder):
    up('rc', memory=4000)
    assert acl.mdl.load_from_file(str(folder / 'decoder.om')) == (0, 245002)
    assert simulator.memory_used() == 0 and 'Model' not in simulator.live()


def test_open_shapes_of_a_graph_come_from_the_settings(folder):
    up('rc')
    assert acl.mdl.load_from_file(str(folder / 'geared.onnx')) == (0, 100013)
    up('rc', shapes=STATIC)
    assert acl.mdl.load_from_file(str(folder / 'geared.onnx')) == (1, 0)


def test_model_belongs_to_its_context_and_dies_once(folder):
    up('rc')
    model = check(acl.mdl.load_from_file(str(folder / 'decoder.om')))
    first = check(acl.rt.get_context())
    check(acl.rt.create_context(0))
    assert acl.mdl.unload(model) == 107004
    check(acl.rt.set_context(first))
    assert [acl.mdl.unload(model), acl.mdl.unload(model)] == [0, 145003]
    assert acl.mdl.execute(model, 0, 0) == 145003


def test_datasets_are_checked_before_a_run(folder):
    running = CopyingProgram(str(folder / 'decoder.om'))
    empty = acl.mdl.create_dataset()
    assert acl.mdl.execute(running.model, 0, running.outputs) == 100000
    assert acl.mdl.execute(running.model, empty, running.outputs) == 100000
    assert acl.mdl.get_dataset_num_buffers(running.inputs) == 4
    assert acl.mdl.get_dataset_buffer(running.inputs, 9) == 0
    address, size, buffer = running.input_buffers[1]
    assert acl.mdl.get_dataset_buffer(running.inputs, 1) == buffer
    check(acl.update_data_buffer(buffer, address, size - 8))
    assert acl.mdl.execute(running.model, running.inputs, running.outputs) == 100017
    check(acl.update_data_buffer(buffer, running.output_buffers[0][0], size))
    with pytest.raises(simulator.Violation, match='share memory'):
        acl.mdl.execute(running.model, running.inputs, running.outputs)
    check(acl.update_data_buffer(buffer, acl.util.bytes_to_ptr(bytes(size)), size))
    with pytest.raises(simulator.Violation, match='not device memory'):
        acl.mdl.execute(running.model, running.inputs, running.outputs)


def test_output_without_memory_is_given_some(folder):
    running = CopyingProgram(str(folder / 'decoder.om'))
    buffer = running.output_buffers[0][2]
    check(acl.update_data_buffer(buffer, 0, 0))
    check(acl.mdl.execute(running.model, running.inputs, running.outputs))
    assert acl.get_data_buffer_size(buffer) == 4 * VOCABULARY
    check(acl.rt.free(acl.get_data_buffer_addr(buffer)))


def test_work_under_way_keeps_its_memory_and_its_model(folder):
    running = CopyingProgram(str(folder / 'decoder.om'))
    running.run(step(1, 0))
    check(acl.mdl.execute_async(running.model, running.inputs, running.outputs, running.stream))
    check(acl.mdl.execute_async(running.model, running.inputs, running.outputs, running.stream))
    address, size, _ = running.input_buffers[0]
    for call in (lambda: acl.rt.memset(address, size, 0, size), lambda: acl.rt.free(address),
                 lambda: acl.mdl.unload(running.model),
                 lambda: acl.mdl.execute(running.model, running.inputs, running.outputs),
                 lambda: acl.mdl.execute_async(running.model, running.inputs, running.outputs,
                                               check(acl.rt.create_stream()))):
        with pytest.raises(simulator.Violation, match='synchronize first|in use|still runs'):
            call()
    check(acl.rt.synchronize_stream(running.stream))
    check(acl.rt.memset(address, size, 0, size))


def test_failure_of_asynchronous_work_surfaces_where_it_is_waited_for(folder):
    running = CopyingProgram(str(folder / 'decoder.om'))
    simulator.fail('execute_async', 2, 507011)
    for code in (0, 507011):
        running_code = acl.mdl.execute_async(running.model, running.inputs, running.outputs,
                                             running.stream)
        assert (running_code, acl.rt.synchronize_stream(running.stream)) == (0, code)
    assert acl.mdl.execute_async(running.model, running.inputs, running.outputs,
                                 running.stream) == 507011
    running.close()
    simulator.assert_clean()


def test_failure_that_is_the_call_s_own_is_returned_at_once(folder):
    running = CopyingProgram(str(folder / 'decoder.om'))
    simulator.fail('execute_async', 1, 145003)
    assert acl.mdl.execute_async(running.model, running.inputs, running.outputs,
                                 running.stream) == 145003


def test_token_out_of_range_fails_the_model_and_its_context(folder):
    running = CopyingProgram(str(folder / 'decoder.om'))
    data = np.array([[VOCABULARY]]).tobytes()
    check(acl.rt.memcpy(running.input_buffers[0][0], 8, acl.util.bytes_to_ptr(data), 8, 1))
    assert acl.mdl.execute(running.model, running.inputs, running.outputs) == 507011
    assert acl.rt.malloc(8, 0) == (0, 507011)


def test_program_that_never_zeroes_its_cache_gets_numbers_unless_the_hostile_fill_is_asked_for(
        folder):
    code = (f'import numpy as np, support.ascend_programs as p\n'
            f'program = p.ViewingProgram({str(folder)!r} + "/decoder.om")\n'
            f'mask = np.zeros((1, {SLOTS + 1}), np.int64)\nmask[0, -1] = 1\n'
            'logits = program.run([np.array([[1]]), mask, np.array([[0]])])[0]\n'
            'print(np.isfinite(logits).all())')
    for fill, is_finite in (({}, 'True'), ({'ASCEND_SIM_FILL': '255'}, 'False')):
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                              env={'PYTHONPATH': f'{TEST}:{SIMULATOR}', **fill})
        assert done.stdout.strip() == is_finite, done.stderr


@pytest.mark.parametrize('form', ['rc', 'ep'])
def test_our_own_tests_start_from_memory_of_nans(form):
    up(form)
    check(acl.rt.set_device(0))
    address, host = check(acl.rt.malloc(64, 0)), check(acl.rt.malloc_host(64))
    check(acl.rt.memcpy(host, 64, address, 64, 2))
    assert acl.util.ptr_to_bytes(host, 64) == b'\xff' * 64


def test_environment_and_log_configure_another_process(folder, tmp_path):
    code = (f'import support.ascend_programs as p\nprogram = p.CopyingProgram({str(folder)!r} '
            "+ '/decoder.om')\nprogram.close()")
    path = f'{TEST}:{SIMULATOR}'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True,
        env={'PYTHONPATH': path, 'ASCEND_SIM_FORM': 'ep', 'ASCEND_SIM_FAULTS': 'unload:1=545009',
             'ASCEND_SIM_LOG': str(tmp_path / 'log')})
    assert 'AssertionError: (545009' in done.stderr
    line = json.loads((tmp_path / 'log').read_text())
    assert line['form'] == 'ep' and line['calls']['mdl.unload'] == 1
    assert line['live']['Model'] == 1


@pytest.mark.parametrize('attributes', [
    {}, {'scale': 0.5}, {'offset': 3.0}, {'scale': 2.0, 'sqrt_mode': 1},
    {'round_mode': 'Floor'}, {'round_mode': 'Ceil'}, {'round_mode': 'Trunc'}], ids=str)
@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_quantisation_rounds_half_to_even_and_saturates(attributes, dtype):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 3e4, -3e4, -128.4, -1.25, 0], dtype)
    values = {'scale': 1.0, 'offset': 0.0, 'sqrt_mode': 0, 'round_mode': 'Round', **attributes}
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node('AscendQuant', ['x'], ['y'], **values)], 'quant',
        [helper.make_tensor_value_info('x', kind, [len(x)])],
        [helper.make_tensor_value_info('y', TensorProto.INT8, [len(x)])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    rewrite(model)
    found = ort.InferenceSession(model.SerializeToString()).run(None, {'x': x})[0]
    rounding = {'Round': np.rint, 'Floor': np.floor, 'Ceil': np.ceil, 'Trunc': np.trunc}
    scale = values['scale'] ** (2 if values['sqrt_mode'] else 1)
    with np.errstate(over='ignore'):
        scaled = x.astype(np.float16) * np.float16(scale) + np.float16(values['offset'])
    assert found.tolist() == np.clip(
        rounding[values['round_mode']](scaled.astype(np.float32)), -128, 127).tolist()


def test_integer_product_is_exact_at_the_extremes():
    codes = np.array([[-128, 127, -128, 127]], np.int8)
    weight = np.array([[-127, 127]] * 4, np.int8)
    graph = helper.make_graph(
        [helper.make_node('MatMulInteger', ['codes', 'weight'], ['y'])], 'product',
        [helper.make_tensor_value_info('codes', TensorProto.INT8, [1, 4])],
        [helper.make_tensor_value_info('y', TensorProto.INT32, [1, 2])],
        [numpy_helper.from_array(weight, 'weight')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    rewrite(model)
    assert onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.uint8)) == next(
        tensor.data_type for tensor in model.graph.initializer if '128' in tensor.name
        and tensor.data_type == TensorProto.UINT8)
    found = ort.InferenceSession(model.SerializeToString()).run(None, {'codes': codes})[0]
    assert np.array_equal(found, codes.astype(np.int32) @ weight.astype(np.int32))


@pytest.mark.parametrize('half', [False, True])
def test_fp16_is_rounded_and_overflows_on_request(tmp_path, half):
    x = np.array([[300, 65504, -65504, 0.1, 5, 1e-3, -3.3, 2049]], np.float16)
    nodes = [helper.make_node('Mul', ['x', 'x'], ['square']),
             helper.make_node('Add', ['square', 'x'], ['sum']),
             helper.make_node('Cast', ['sum'], ['wide'], to=TensorProto.FLOAT),
             helper.make_node('Mul', ['wide', 'third'], ['part']),
             helper.make_node('Cast', ['part'], ['narrow'], to=TensorProto.FLOAT16),
             helper.make_node('Cast', ['narrow'], ['y'], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes, 'half', [helper.make_tensor_value_info('x', TensorProto.FLOAT16, x.shape)],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(np.float32(1 / 3), 'third')])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8),
              tmp_path / 'half.onnx')
    simulator.reset(form='ep', half=half)
    found = CopyingProgram(str(tmp_path / 'half.onnx')).run([x])[0]
    with np.errstate(over='ignore'):
        expected = ((x * x + x).astype(np.float32) * np.float32(1 / 3)).astype(np.float16)
    assert np.isinf(expected).sum() == 4
    assert np.array_equal(found, expected.astype(np.float32)) == half
