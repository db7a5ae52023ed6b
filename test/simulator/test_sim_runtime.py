"""The stand-in for acl: process, devices, memory, copies, streams, threads, util."""

import ctypes
import subprocess
import sys
import threading
import warnings

import acl
from acl import simulator
import numpy as np
import pytest
from support.ascend_programs import check
from support.paths import SIMULATOR

NULL_CONTEXT, INVALID, UNINITIALIZED = 107002, 100000, 100001


@pytest.fixture(params=['rc', 'ep'])
def board(request):
    """Bring up one device and its default context, in both forms."""
    simulator.reset(form=request.param)
    check(acl.init())
    check(acl.rt.set_device(0))
    yield request.param
    simulator.reset()


def bytes_of(text: bytes):
    return acl.util.bytes_to_ptr(text)


def to_host(address: int, size: int) -> bytes:
    data = bytes(size)
    check(acl.rt.memcpy(bytes_of(data), size, address, size, 2))
    return data


def test_calls_before_init_are_refused():
    simulator.reset()
    assert acl.rt.set_device(0) == UNINITIALIZED
    assert acl.rt.create_stream() == (0, UNINITIALIZED)
    assert acl.get_soc_name() == 'Ascend310B4'


def test_second_init_and_second_finalize_have_their_codes():
    simulator.reset()
    assert [acl.init(), acl.init(), acl.finalize(), acl.finalize()] == [0, 100002, 0, 100037]


def test_config_that_is_missing_is_named_by_a_code(tmp_path):
    simulator.reset()
    assert acl.init(str(tmp_path / 'none.json')) == 100003
    (tmp_path / 'bad.json').write_text('{')
    assert acl.init(str(tmp_path / 'bad.json')) == 100006


def test_form_answers_get_run_mode(board):
    assert acl.rt.get_run_mode() == ({'rc': 0, 'ep': 1}[board], 0)


def test_device_out_of_range(board):
    assert acl.rt.set_device(1) == 107001
    assert acl.rt.get_device_count() == (1, 0)


def test_new_thread_has_no_context_until_it_is_set(board):
    context, seen = check(acl.rt.create_context(0)), []

    def work() -> None:
        seen.append(acl.rt.malloc(64, 0))
        acl.rt.set_context(context)
        seen.append(acl.rt.malloc(64, 0)[1])
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, NULL_CONTEXT), 0]


def test_destroyed_context_serves_no_more(board):
    context = check(acl.rt.create_context(0))
    assert acl.rt.get_context() == (context, 0)
    check(acl.rt.destroy_context(context))
    assert acl.rt.malloc(64, 0) == (0, NULL_CONTEXT)
    assert acl.rt.set_context(context) == NULL_CONTEXT
    assert acl.rt.destroy_context(context) == 107017


def test_recent_message_tells_of_the_last_failure_once(board):
    acl.rt.malloc(0, 0)
    assert 'size of 0' in acl.get_recent_err_msg()
    assert acl.get_recent_err_msg() is None


def test_memory_goes_there_and_back(board):
    address = check(acl.rt.malloc(10, 0))
    check(acl.rt.memcpy(address, 10, bytes_of(b'0123456789'), 10, 1))
    second = check(acl.rt.malloc(16, 0))
    check(acl.rt.memset(second, 16, 65, 16))
    check(acl.rt.memcpy(second + 2, 14, address, 10, 3))
    assert to_host(second, 16) == b'AA0123456789AAAA'
    assert simulator.moved == {'h2d': 10, 'set': 16, 'd2d': 10, 'd2h': 16}


def test_new_memory_is_aligned_and_holds_nans(board):
    address = check(acl.rt.malloc(100, 0))
    assert address % 64 == 0
    assert np.isnan(np.frombuffer(to_host(address, 100), np.float16)).all()


@pytest.mark.parametrize(('call', 'code'), [
    (lambda a: acl.rt.malloc(0, 0)[1], INVALID),
    (lambda a: acl.rt.free(0), INVALID),
    (lambda a: acl.rt.memcpy(0, 8, a, 8, 3), INVALID),
    (lambda a: acl.rt.memcpy(a, 8, 0, 8, 3), INVALID),
    (lambda a: acl.rt.memcpy(a, 4, a, 8, 3), 107000),
    (lambda a: acl.rt.memcpy(a, 8, a, 0, 3), 0),
    (lambda a: acl.rt.memcpy(a, 8, a, 8, 9), INVALID),
    (lambda a: acl.rt.memset(a, 8, 0, 9), 107000),
    (lambda a: acl.rt.memset(a, 8, 256, 8), 107000),
    (lambda a: acl.rt.get_mem_info(1)[2], 107000),
], ids=['size 0', 'free null', 'to null', 'from null', 'too long', 'nothing', 'kind', 'set',
        'value', 'no HBM'])
def test_bad_arguments_have_their_codes(board, call, code):
    assert call(check(acl.rt.malloc(8, 0))) == code


@pytest.mark.parametrize('bad', [np.int64(8), None, 8.0], ids=['numpy', 'None', 'float'])
def test_sizes_must_be_plain_ints(board, bad):
    with pytest.raises(TypeError, match='plain int'):
        acl.rt.malloc(bad, 0)


def test_wrong_number_of_arguments(board):
    with pytest.raises(TypeError, match='takes 2 arguments, not 1'):
        acl.rt.malloc(8)


@pytest.mark.parametrize(('misuse', 'message'), [
    (lambda a: acl.rt.memcpy(a, 100, bytes_of(bytes(100)), 100, 1), 'run over the end'),
    (lambda a: acl.rt.free(a + 1), 'which is inside device memory'),
    (lambda a: acl.rt.free_host(a), 'freed as host memory'),
    (lambda a: (acl.rt.free(a), acl.rt.free(a)), 'was freed already'),
    (lambda a: (acl.rt.free(a), acl.rt.memset(a, 8, 0, 8)), 'was freed already'),
], ids=['overrun', 'inside', 'wrong kind', 'twice', 'after free'])
def test_misuse_that_corrupts_a_board_raises(board, misuse, message):
    address = check(acl.rt.malloc(64, 0))
    with pytest.raises(simulator.Violation, match=message):
        misuse(address)
    with pytest.raises(AssertionError, match='acl.rt'):
        simulator.assert_clean()


def test_memory_limit_holds_and_is_told():
    simulator.reset(memory=10_000)
    acl.init()
    acl.rt.set_device(0)
    address = check(acl.rt.malloc(9_000, 0))
    assert acl.rt.malloc(9_000, 0) == (0, 207001)
    assert check(acl.rt.get_mem_info(0)) == (10_000 - 9_024 - 32, 10_000)
    check(acl.rt.free(address))
    assert simulator.memory_used() == 0


def test_pinned_memory_is_device_memory_only_in_rc_form(board):
    address = check(acl.rt.malloc_host(100))
    assert (simulator.memory_used() > 0) == (board == 'rc')
    ctypes.memset(address, 7, 100)
    assert acl.util.ptr_to_bytes(address, 100) == b'\7' * 100


def test_direction_must_be_right_in_ep_form_only(board):
    address = check(acl.rt.malloc(8, 0))
    expected = 0 if board == 'rc' else 107000
    assert acl.rt.memcpy(address, 8, bytes_of(b'01234567'), 8, 3) == expected


def test_rows_are_copied_with_a_pitch_in_ep_form_only(board):
    address, rows = check(acl.rt.malloc(32, 0)), b'aabbcc'
    check(acl.rt.memset(address, 32, 46, 32))
    code = acl.rt.memcpy2d(address + 1, 8, bytes_of(rows), 2, 2, 3, 1)
    assert code == (207000 if board == 'rc' else 0)
    if board == 'ep':
        assert to_host(address, 20) == b'.aa.....' + b'.bb.....' + b'.cc.'
        assert simulator.moved['h2d'] == 6
        assert acl.rt.memcpy2d(address, 1, bytes_of(rows), 2, 2, 3, 1) == 107000


def test_views_reach_device_memory_in_rc_form_only(board):
    address = check(acl.rt.malloc(24, 0))
    if board == 'ep':
        with pytest.raises(simulator.Violation, match='EP form the host cannot'):
            acl.util.ptr_to_bytes(address, 24)
        with pytest.raises(simulator.Violation, match='EP form the host'), pytest.warns(Warning):
            acl.util.ptr_to_numpy(address, (3,), 7)
        return
    with pytest.warns(Warning, match='ptr_to_numpy will be deprecated'):
        view = acl.util.ptr_to_numpy(address, (3,), 7)
    view[:] = [1, 2, 3]
    assert np.frombuffer(to_host(address, 24), np.int64).tolist() == [1, 2, 3]


@pytest.mark.parametrize('form', ['ep', 'rc'])
def test_host_that_touches_device_memory_in_ep_form_dies(form):
    code = ('import acl, ctypes; acl.init(); acl.rt.set_device(0);'
            'a, _ = acl.rt.malloc(8, 0); ctypes.memset(a, 0, 8)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          env={'PYTHONPATH': str(SIMULATOR), 'ASCEND_SIM_FORM': form})
    assert done.returncode == (-11 if form == 'ep' else 0), done.stderr
    assert ('Segmentation fault' in done.stderr) == (form == 'ep')


def test_work_on_a_stream_is_done_in_order_and_memory_is_in_use_until_waited_for(board):
    stream, address = check(acl.rt.create_stream()), check(acl.rt.malloc(8, 0))
    host = check(acl.rt.malloc_host(8))
    check(acl.rt.memset_async(address, 8, 65, 8, stream))
    check(acl.rt.memcpy_async(host, 8, address, 8, 2, stream))
    with pytest.raises(simulator.Violation, match='synchronize first'):
        acl.rt.memset(address, 8, 0, 8)
    with pytest.raises(simulator.Violation, match='in use'):
        acl.rt.free_host(host)
    check(acl.rt.synchronize_stream(stream))
    assert acl.util.ptr_to_bytes(host, 8) == b'AAAAAAAA'
    check(acl.rt.memset(address, 8, 0, 8))


def test_stream_of_another_context_is_refused(board):
    stream = check(acl.rt.create_stream())
    check(acl.rt.create_context(0))
    assert acl.rt.synchronize_stream(stream) == 107003
    assert acl.rt.synchronize_stream(12345) == 107017


def test_callbacks_come_to_the_subscribed_thread(board):
    stream, address = check(acl.rt.create_stream()), check(acl.rt.malloc(8, 0))
    seen, is_done = [], threading.Event()

    def serve(arguments) -> None:
        acl.rt.set_context(arguments[0])
        while not is_done.is_set():
            acl.rt.process_report(50)
    thread, code = acl.util.start_thread(serve, [check(acl.rt.get_context())])
    assert code == 0
    check(acl.rt.subscribe_report(thread, stream))
    check(acl.rt.memset_async(address, 8, 65, 8, stream))
    check(acl.rt.launch_callback(
        lambda text: (seen.append((text, threading.get_ident(), to_host(address, 8))),
                      is_done.set()), 'data', 1, stream))
    check(acl.rt.synchronize_stream(stream))
    check(acl.rt.unsubscribe_report(thread, stream))
    check(acl.util.stop_thread(thread))
    assert seen == [('data', thread, b'AAAAAAAA')]


def test_report_that_does_not_come_times_out(board):
    assert acl.rt.process_report(1) == 507012


def test_addresses_of_arrays_and_bytes(board):
    array = np.arange(6).reshape(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert acl.util.numpy_to_ptr(array) == array.ctypes.data
        address, contiguous = acl.util.numpy_contiguous_to_ptr(array.T)
    assert acl.util.ptr_to_bytes(address, 48) == array.T.tobytes()
    assert acl.util.ptr_to_bytes(bytes_of(b'text'), 4) == b'text'
    for call in (acl.util.bytes_to_ptr, acl.util.numpy_to_ptr):
        with pytest.raises(ValueError, match='needs'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            call(bytearray(3))


def test_shape_of_a_view_is_a_tuple_of_ints(board):
    with pytest.raises(SystemError), pytest.warns(Warning):
        acl.util.ptr_to_numpy(64, [3], 7)
    with pytest.raises(TypeError), pytest.warns(Warning):
        acl.util.ptr_to_numpy(64, (np.int64(3),), 7)


def test_data_buffers(board):
    buffer = acl.create_data_buffer(64, 2**33 + 1)
    assert acl.get_data_buffer_addr(buffer) == 64
    assert acl.get_data_buffer_size(buffer) == 1
    assert acl.get_data_buffer_size_v2(buffer) == 2**33 + 1
    assert acl.update_data_buffer(buffer, 128, 7) == 0
    assert (acl.get_data_buffer_addr(buffer), acl.get_data_buffer_size(buffer)) == (128, 7)
    assert acl.destroy_data_buffer(buffer) == 0
    with pytest.raises(simulator.Violation, match='was destroyed'):
        acl.destroy_data_buffer(buffer)
    with pytest.raises(simulator.Violation, match='a Dataset is wanted'):
        acl.mdl.destroy_dataset(acl.create_data_buffer(64, 1))


def test_what_is_left_behind_is_noted(board):
    check(acl.rt.malloc(8, 0))
    check(acl.rt.create_context(0))
    check(acl.rt.create_stream())
    acl.mdl.create_dataset()
    check(acl.rt.reset_device(0))
    check(acl.finalize())
    with pytest.raises(AssertionError) as error:
        simulator.assert_clean()
    for what in ('before a context', 'before stream', 'before device memory', '1 Dataset'):
        assert what in str(error.value)


def test_faults_are_counted_by_call(board):
    simulator.fail('malloc', 2, 207001)
    simulator.fail('rt.memset', 1, 500003)
    codes = [acl.rt.malloc(8, 0)[1] for _ in range(3)]
    assert codes == [0, 207001, 0]
    assert acl.rt.memset(64, 8, 0, 8) == 500003


@pytest.mark.parametrize('text', ['malloc', 'malloc:0=5', 'malloc:1', 'malloc:1=0'])
def test_unreadable_faults_are_refused(text):
    with pytest.raises(ValueError, match='CALL:NTH=CODE'):
        simulator.reset(faults=text)


@pytest.mark.parametrize(('code', 'helps'), [(507011, 'context'), (507015, 'device')])
def test_failed_work_makes_context_or_device_useless(board, code, helps):
    context, stream = check(acl.rt.create_context(0)), check(acl.rt.create_stream())
    simulator.fail('synchronize_stream', 1, code)
    assert acl.rt.synchronize_stream(stream) == code
    assert acl.rt.malloc(8, 0) == (0, code)
    check(acl.rt.destroy_stream(stream))
    check(acl.rt.destroy_context(context))
    assert acl.rt.create_context(0)[1] == (0 if helps == 'context' else code)
    check(acl.rt.reset_device(0))
    check(acl.rt.set_device(0))
    assert acl.rt.malloc(8, 0)[1] == 0


def test_bytes_that_were_dropped_or_are_too_short_are_not_copied(board):
    address, data = check(acl.rt.malloc(64, 0)), b'x' * int('40')
    with pytest.raises(simulator.Violation, match='over the end of a bytes object of 40'):
        acl.rt.memcpy(address, 64, bytes_of(data), 64, 1)
    check(acl.rt.memcpy(address, 64, bytes_of(data) + 10, 30, 1))
    with pytest.raises(simulator.Violation, match='is gone: keep it'):
        acl.rt.memcpy(address, 64, bytes_of(bytes(bytearray(40))), 40, 1)


def test_ordinary_memory_is_copied_before_an_asynchronous_call_returns(board):
    stream, address = check(acl.rt.create_stream()), check(acl.rt.malloc(8, 0))
    context = check(acl.rt.get_context())
    is_held = threading.Event()
    thread, _ = acl.util.start_thread(
        lambda arguments: (acl.rt.set_context(context), is_held.wait(5),
                           acl.rt.process_report(5000)), [])
    check(acl.rt.subscribe_report(thread, stream))
    check(acl.rt.launch_callback(lambda data: None, None, 1, stream))  # the stream stands still
    source = bytearray(b'original')
    place = ctypes.addressof(ctypes.c_char.from_buffer(source))
    check(acl.rt.memcpy_async(address, 8, place, 8, 1, stream))
    source[:] = b'replaced'
    is_held.set()
    check(acl.rt.synchronize_stream(stream))
    check(acl.util.stop_thread(thread))
    target = bytes(8)
    check(acl.rt.memcpy_async(bytes_of(target), 8, address, 8, 2, stream))
    assert target == b'original'
    check(acl.rt.synchronize_stream(stream))
