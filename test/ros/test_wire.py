"""Requests and events come through JSON as they were, and nothing else comes through."""

import json

from hypothesis import given, strategies as st
import pytest

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.chat.message import Message, ROLES
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.wire import (
    completion_event_to_json,
    ConversationEvent,
    LONGEST_JSON,
    read_completion_event,
    read_event,
    read_id,
    read_request,
    request_to_json,
)

HELLO = (Message('user', 'hello'),)
SAID = [{'role': 'user', 'content': 'hello'}]
texts = st.text(st.characters(exclude_categories=['Cs']))
requests = st.builds(
    CompletionRequest, st.from_regex(r'[\w.-]{1,64}', fullmatch=True, alphabet='a0_.-'),
    st.lists(st.builds(Message, st.sampled_from(ROLES), texts), min_size=1, max_size=4
             ).map(tuple),
    *(st.none() | values for values in (st.floats(0, 2), st.floats(0, 1),
                                        st.integers(1, 2**31 - 1), st.integers(0, 2**63 - 1))),
    st.lists(st.text(min_size=1, max_size=9), max_size=4).map(tuple))
events = st.builds(
    CompletionEvent, st.text(), st.sampled_from(['accepted', 'token', 'done', 'error']), texts,
    st.sampled_from(['', 'busy', 'failed']), st.text(), st.sampled_from(['', 'stop', 'length']),
    st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@given(requests)
def test_request_comes_through_as_plain_ascii(request_):
    text = request_to_json(request_)
    assert text.isascii() and '\0' not in text
    assert read_request(text) == request_


@given(events)
def test_event_comes_through_as_plain_ascii(event):
    text = completion_event_to_json(event)
    assert text.isascii() and '\0' not in text
    assert read_completion_event(text) == event


def test_event_says_only_what_there_is_to_say():
    assert completion_event_to_json(CompletionEvent('a', 'token', 'x')) == (
        '{"id": "a", "kind": "token", "text": "x"}')


@pytest.mark.parametrize(('changes', 'param', 'why'), [
    ({'id': 'a b'}, 'id', 'id must be 1 to 64 of the characters'),
    ({'id': 'x' * 65}, 'id', 'id must be 1 to 64'), ({'id': ''}, 'id', 'id must be 1 to 64'),
    ({'id': 5}, 'id', 'id must be a text'),
    ({'messages': []}, 'messages', 'there are 0 messages'),
    ({'messages': SAID * 2049}, 'messages', 'there are 2049 messages'),
    ({'messages': {}}, 'messages', 'messages must be a list'),
    ({'messages': [*SAID, 5]}, 'messages[1]', 'must be an object with a role and a content'),
    ({'messages': [{'role': 'tool', 'content': ''}]}, 'messages[0]', "role 'tool' is unknown"),
    ({'messages': [{'role': 'user', 'content': 'a\udc00'}]}, 'messages[0]',
     'character 1 of a user message is half of a surrogate pair'),
    ({'temperature': 3}, 'temperature', 'temperature is 3; it must be a number in 0..2'),
    ({'temperature': float('nan')}, 'temperature', 'temperature is nan'),
    ({'top_p': '1'}, 'top_p', "top_p is '1'; it must be a number in 0..1"),
    ({'seed': -1}, 'seed', 'seed is -1; it must be a whole number in 0..'),
    ({'max_tokens': True}, 'max_tokens', 'max_tokens is True'),
    ({'max_tokens': 'x' * 1000}, 'max_tokens', "max_tokens is 'xxxxx"),
    ({'stop': 'x'}, 'stop', 'stop must be a list'),
    ({'stop': ['']}, 'stop', 'stop must be at most 4 texts of 1 to 256'),
    ({'stop': [5]}, 'stop', 'stop must be at most 4 texts'),
    ({'stop': ['x' * 257]}, 'stop', 'stop must be at most 4 texts'),
    ({'more': 1}, 'more', 'more is unknown')], ids=lambda value: str(value)[:30])
def test_wrong_request_is_refused_by_the_name_of_what_is_wrong(changes, param, why):
    with pytest.raises(RequestError) as caught:
        read_request(json.dumps({'id': 'a', 'messages': SAID} | changes))
    assert caught.value.param == param
    assert why in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(('text', 'why'), [
    ('', 'this is not valid JSON'), ('[]', 'this is not a JSON object'),
    ('[' * 99_999, 'this is not valid JSON'),
    (' ' * (LONGEST_JSON + 1), 'characters are too many')],
    ids=['nothing', 'list', 'deep', 'long'])
def test_what_is_no_json_object_is_refused(text, why):
    for read in (read_request, read_completion_event):
        with pytest.raises(RequestError, match=why):
            read(text)


@pytest.mark.parametrize(('event', 'why'), [
    ({'kind': 'token'}, 'this is not a valid event'),
    ({'id': 'a', 'kind': 'x', 'more': 1}, 'not a valid event'),
    ({'id': 5, 'kind': 'token'}, 'id of an event must be str'),
    ({'id': 'a', 'kind': 'done', 'prompt_tokens': '5'}, 'prompt_tokens of an event must be int')])
def test_what_is_no_event_is_refused(event, why):
    with pytest.raises(RequestError, match=why):
        read_completion_event(json.dumps(event))


@given(st.text() | st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.sampled_from(['id', 'messages', 'stop', 'seed', 'kind']),
                                  inner) | st.lists(inner)).map(json.dumps))
def test_nothing_but_a_refusal_comes_of_any_text(text):
    for read in (read_request, read_completion_event):
        try:
            read(text)
        except RequestError:
            continue


@pytest.mark.parametrize(('text', 'found'), [
    ('{"id": "a.b-1"}', 'a.b-1'), ('{"id": "a b"}', ''), ('{"id": 5}', ''), ('{}', ''),
    ('no', '')])
def test_id_of_a_wrong_request_is_found_where_it_has_one(text, found):
    assert read_id(text) == found


conversation_events = st.builds(
    ConversationEvent, texts, st.integers(0, 9), st.integers(1, 9), st.integers(0, 9),
    st.sampled_from(['begun', 'token', 'asked']), texts, texts)


@given(conversation_events)
def test_event_of_the_conversation_comes_through_as_plain_ascii(event):
    text = event.to_json()
    assert text.isascii() and '\0' not in text
    assert read_event(text) == event


@pytest.mark.parametrize('changes', [
    {'run': 5}, {'turn': '1'}, {'seq': True}, {'line': 1.0}, {'kind': None}, {'text': []},
    {'why': {}}], ids=lambda changes: next(iter(changes)))
def test_event_with_a_field_of_another_type_is_none(changes):
    event = json.loads(ConversationEvent('a', 1, 1, 1, 'asked').to_json())
    assert read_event(json.dumps(event | changes)) is None


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"run": "a", "line": 1}', 'null', '1'])
def test_what_is_no_event_of_the_conversation_is_none(text):
    assert read_event(text) is None
