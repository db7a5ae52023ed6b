"""What a code of pyACL means, and whether trying again, a reload or nothing helps."""

import pytest

from tinyllama_ros.engine.acl.errors import acl_error, AclError, Action, fault_of
from tinyllama_ros.errors import BackendLost


@pytest.mark.parametrize(('code', 'action'), [
    (100000, Action.GIVE_UP), (145002, Action.GIVE_UP), (100013, Action.GIVE_UP),
    (107002, Action.RETRY), (507046, Action.RETRY), (200000, Action.RETRY),
    (507011, Action.RELOAD), (507015, Action.RELOAD), (507010, Action.RELOAD),
    (545003, Action.RELOAD), (145003, Action.RELOAD),
    (207001, Action.GIVE_UP), (507054, Action.GIVE_UP)], ids=str)
def test_code_asks_for_what_may_help(code, action):
    assert fault_of(code).action is action


@pytest.mark.parametrize(('code', 'action', 'meaning'), [
    (599999, Action.RELOAD, 'an error inside CANN'),
    (199999, Action.GIVE_UP, 'a code that this program does not know')])
def test_unknown_code_goes_by_its_range(code, action, meaning):
    assert (fault_of(code).action, fault_of(code).meaning) == (action, meaning)


def test_message_names_call_code_meaning_detail_and_remedy():
    assert str(acl_error('rt.set_device', 107001, 'EE1001: id 7')) == (
        'acl.rt.set_device failed with code 107001: there is no such device (EE1001: id 7); '
        'set acl.device to a number that npu-smi info -l lists')


@pytest.mark.parametrize(('code', 'is_lost'), [(507011, True), (107002, True), (207001, False)])
def test_error_says_whether_a_reload_may_help(code, is_lost):
    error = acl_error('mdl.execute_async', code)
    assert isinstance(error, BackendLost) == is_lost
    assert isinstance(error, AclError)
