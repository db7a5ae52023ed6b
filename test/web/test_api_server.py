"""The chat_model as the real OpenAI client finds it, and as whoever sends anything at all does."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
import json
import socket
import struct
import time
from typing import Any

from hypothesis import given, HealthCheck, settings, strategies as st
import pytest

pytest.importorskip('aiohttp', reason='pip install aiohttp')
openai = pytest.importorskip('openai', reason="pip install -e '.[test]'")

from openai.types import Model  # noqa: E402
from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from support.web_server import FakeChatModel, PIECES, running  # noqa: E402

from tinyllama_ros.chat.completion import CompletionEvent  # noqa: E402
from tinyllama_ros.chat.message import Message  # noqa: E402
from tinyllama_ros.web import api_server  # noqa: E402
from tinyllama_ros.web.limits import ANSWERS_AT_ONCE  # noqa: E402

HELLO: list[Any] = [{'role': 'user', 'content': 'hello'}]
ASKED: dict[str, Any] = {'model': 'tiny', 'messages': HELLO}


@pytest.fixture
def chat_model():
    return FakeChatModel()


@pytest.fixture
def server(chat_model):
    with running(chat_model) as server:
        yield server


@pytest.fixture
def client(server):
    """Give the real client, which holds what it gets against the types of the format."""
    client = openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0,
                           _strict_response_validation=True)
    yield client
    client.close()


def check_format(kind: type[BaseModel], found: Any) -> None:
    """Hold JSON against a type of the published format, made from its own specification."""
    model = kind.model_validate_json(json.dumps(found), strict=True)
    assert_nothing_unknown(model)


def assert_nothing_unknown(model: BaseModel) -> None:
    assert not model.model_extra, f'{type(model).__name__} has no {model.model_extra}'
    for _, value in model:
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                assert_nothing_unknown(each)


def chunks_of(body: bytes) -> list[Any]:
    """Return the data of server-sent events, which must end as the format wants it."""
    events = body.decode().split('\n\n')
    assert events[-2:] == ['data: [DONE]', '']
    return [json.loads(event.removeprefix('data: ')) for event in events[:-2]]


def test_client_finds_the_model_by_its_name(client):
    assert [model.id for model in client.models.list()] == ['tiny']
    assert client.models.retrieve('tiny').owned_by == 'tinyllama_ros'


def test_client_finds_no_other_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve('gpt/4')
    assert caught.value.code == 'model_not_found'


def test_client_gets_an_answer(client, chat_model):
    answer = client.chat.completions.create(**ASKED)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (''.join(PIECES), 'stop')
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens,
            answer.usage.total_tokens) == (9, 3, 12)
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert answer.id == chat_model.requests[0].id


def test_client_gets_an_answer_in_pieces(client):
    chunks = list(client.chat.completions.create(**ASKED, stream=True))
    said = [chunk.choices[0].delta.content for chunk in chunks]
    assert said == ['', *PIECES, None]
    assert chunks[0].choices[0].delta.role == 'assistant'
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ['stop']
    assert len({chunk.id for chunk in chunks}) == 1


def test_client_gets_usage_last_where_it_wants_it(client):
    *chunks, last = client.chat.completions.create(
        **ASKED, stream=True, stream_options={'include_usage': True})
    assert (last.choices, last.usage.total_tokens) == ([], 12)
    assert all(chunk.usage is None for chunk in chunks)


def test_client_sends_all_that_is_supported(client, chat_model):
    client.chat.completions.create(
        model='tiny', temperature=0.5, top_p=0.25, max_completion_tokens=7, seed=-3,
        stop=['\n', 'END'], n=1, user='me', frequency_penalty=0, presence_penalty=0.0,
        response_format={'type': 'text'}, store=False, logprobs=False, tools=[],
        messages=[{'role': 'developer', 'content': 'Be brief.'},
                  {'role': 'user', 'content': [{'type': 'text', 'text': 'What is'},
                                               {'type': 'text', 'text': ' a robot?'}]},
                  {'role': 'assistant', 'content': 'A machine.', 'refusal': None},
                  {'role': 'user', 'content': 'Why?', 'name': 'me'}])
    request, = chat_model.requests
    assert request.messages == (
        Message('system', 'Be brief.'), Message('user', 'What is\n a robot?'),
        Message('assistant', 'A machine.'), Message('user', 'Why?'))
    assert (request.temperature, request.top_p, request.max_tokens, request.seed) == (
        0.5, 0.25, 7, 2**63 - 3)
    assert request.stop == ('\n', 'END')


def test_what_is_not_said_is_left_to_the_node(client, chat_model):
    client.chat.completions.create(**ASKED, temperature=None, stop=None)
    request, = chat_model.requests
    assert (request.temperature, request.top_p, request.max_tokens, request.seed,
            request.stop) == (None, None, None, None, ())


def test_client_may_send_back_what_it_got(client, chat_model):
    message = client.chat.completions.create(**ASKED).choices[0].message
    client.chat.completions.create(model='tiny', messages=[*HELLO, message, *HELLO])
    client.chat.completions.create(model='tiny', messages=[*HELLO, message.to_dict(), *HELLO])
    assert chat_model.requests[1].messages[1] == Message('assistant', ''.join(PIECES))


@pytest.mark.parametrize('empty', [
    {'reasoning_content': ''}, {'refusal': ''}, {'function_call': {}}, {'tool_calls': []},
    {'audio': None}, {'annotations': []}, {'provider_specific_fields': {'a': 1}},
    {'cache_control': {'type': 'ephemeral'}}], ids=str)
def test_fields_that_clients_send_back_empty_or_without_effect_are_ignored(server, chat_model,
                                                                           empty):
    said = {'role': 'assistant', 'content': 'A machine.', **empty}
    assert server.post({'messages': [*HELLO, said, *HELLO]}).status == 200
    assert chat_model.requests[0].messages[1] == Message('assistant', 'A machine.')


@pytest.mark.parametrize('empty', [
    {'function_call': {}}, {'functions': []}, {'tools': []}, {'stop': ''}, {'stop': []},
    {'logit_bias': {}}, {'metadata': {}}, {'response_format': {}}, {'model': ''}], ids=str)
def test_empty_field_is_absent(server, chat_model, empty):
    assert server.post({'messages': HELLO, **empty}).status == 200
    assert chat_model.requests[0].stop == ()


def test_parts_of_a_content_stay_on_lines_of_their_own(server, chat_model):
    parts = [{'type': 'text', 'text': 'my name is Bob'},
             {'type': 'text', 'text': 'What is my name?', 'cache_control': {'type': 'ephemeral'}}]
    assert server.post({'messages': [{'role': 'user', 'content': parts}]}).status == 200
    assert chat_model.requests[0].messages == (
        Message('user', 'my name is Bob\nWhat is my name?'),)


def test_three_clients_at_once_get_an_answer_each(client):
    def ask(is_stream: bool) -> str:
        answer = client.chat.completions.create(**ASKED, stream=is_stream)
        if is_stream:
            return ''.join(chunk.choices[0].delta.content or '' for chunk in answer)
        return answer.choices[0].message.content

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, [True, False, True])) == [''.join(PIECES)] * 3


def test_client_that_leaves_in_mid_stream_cancels(client, chat_model):
    chat_model.endless = True
    with client.chat.completions.create(**ASKED, stream=True) as chunks:
        for _, chunk in zip(range(10), chunks, strict=False):
            assert chunk.choices
    wait_for(chat_model.cancelled)


def test_stream_that_waits_in_the_queue_gets_headers_and_comments(server, chat_model, monkeypatch):
    monkeypatch.setattr(api_server, 'HEADERS_AFTER_S', 0.01)
    monkeypatch.setattr(api_server, 'COMMENT_PERIOD_S', 0.02)
    chat_model.is_free.clear()
    body = json.dumps({'messages': HELLO, 'stream': True}).encode()
    with server.connect() as connection:
        connection.sendall(post(body).replace(b'Host', b'Connection: close\r\nHost'))
        lines = connection.makefile('rb')
        assert lines.readline() == b'HTTP/1.1 200 OK\r\n'
        while lines.readline() != b'\r\n':
            pass
        comments = [line for line, _ in zip(lines, range(30), strict=False) if line[:1] == b':']
        assert comments[:3] == [b': waiting\n'] * 3
        chat_model.is_free.set()
        assert b'data: [DONE]\n' in lines.read()


def test_client_ignores_the_comments_of_a_stream(client, chat_model, monkeypatch):
    monkeypatch.setattr(api_server, 'HEADERS_AFTER_S', 0.01)
    monkeypatch.setattr(api_server, 'COMMENT_PERIOD_S', 0.01)
    chat_model.is_free.clear()
    chunks = client.chat.completions.create(**ASKED, stream=True)
    assert chunks.response.status_code == 200  # while the request waits
    chat_model.is_free.set()
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks) == ''.join(PIECES)


def test_request_that_fails_after_it_waited_is_an_error_in_the_stream(client, chat_model,
                                                                      monkeypatch):
    monkeypatch.setattr(api_server, 'HEADERS_AFTER_S', 0.0)
    chat_model.pieces = ()
    chat_model.error = CompletionEvent('', 'error', 'it is too long', 'too_long')
    with pytest.raises(openai.APIError, match='it is too long') as caught:
        list(client.chat.completions.create(**ASKED, stream=True))
    assert caught.value.code == 'context_length_exceeded'


def test_client_that_leaves_the_queue_cancels(server, chat_model):
    chat_model.is_free.clear()
    with server.connect() as connection:
        connection.sendall(post(json.dumps({'messages': HELLO, 'stream': True}).encode()))
        wait_for(chat_model.requests)
    wait_for(chat_model.cancelled)


@pytest.mark.parametrize('is_stream', [False, True], ids=['whole', 'stream'])
def test_client_that_leaves_in_mid_answer_leaves_no_traceback(server, chat_model, caplog,
                                                              is_stream):
    chat_model.endless = True
    with server.connect() as connection:
        connection.sendall(post(json.dumps({'messages': HELLO, 'stream': is_stream}).encode()))
        wait_for(chat_model.requests)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    wait_for(chat_model.cancelled)
    assert server.request('/v1/models').status == 200
    assert caplog.records == []


def post(body: bytes) -> bytes:
    """Return a request as bytes, after which the connection may go on."""
    return (b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n'
            b'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n' % len(body)) + body


def test_connections_that_ask_80_times_and_do_not_read_leave_room_for_others():
    body = json.dumps({'messages': HELLO, 'stream': True}).encode()
    chat_model = FakeChatModel(queue_depth=ANSWERS_AT_ONCE + 1)
    chat_model.is_free.clear()
    with running(chat_model, slow_s=60) as server, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.connect()).sendall(post(body) * 80)
        deadline_s = time.monotonic() + 10
        while chat_model.at_once < ANSWERS_AT_ONCE:
            assert time.monotonic() < deadline_s
        assert server.request('/v1/models').status == 200  # behind the requests of all eight
        with ThreadPoolExecutor(1) as pool:
            asked = Message('user', 'from another address')
            other = pool.submit(server.post, {'messages': [vars(asked)]}, source='127.0.0.2')
            while not any(asked in request.messages for request in list(chat_model.requests)):
                assert time.monotonic() < deadline_s
            chat_model.is_free.set()
            assert other.result().status == 200


def test_requests_beyond_the_share_of_an_address_wait_for_their_turn(server, chat_model):
    chat_model.queue_depth = ANSWERS_AT_ONCE
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: server.post({'messages': HELLO}), range(12)))
    assert [reply.status for reply in replies] == [200] * 12


def test_client_that_does_not_wait_for_its_answer_cancels(client, chat_model):
    chat_model.endless = True
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**ASKED, timeout=0.2)
    wait_for(chat_model.cancelled)


def wait_for(found: list[Any]) -> None:
    deadline_s = time.monotonic() + 10
    while not found:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize(('code', 'error', 'told'), [
    ('invalid_request', openai.BadRequestError, None),
    ('too_long', openai.BadRequestError, 'context_length_exceeded'),
    ('busy', openai.InternalServerError, 'overloaded'),
    ('stopping', openai.InternalServerError, 'unavailable'),
    ('offline', openai.InternalServerError, 'unavailable'),
    ('cancelled', openai.InternalServerError, 'cancelled'),
    ('failed', openai.InternalServerError, None)])
@pytest.mark.parametrize('is_stream', [False, True], ids=['whole', 'stream'])
def test_refused_request_is_the_clients_own_error(client, chat_model, code, error, told,
                                                  is_stream):
    chat_model.pieces, chat_model.error = (), CompletionEvent('', 'error', 'it is so', code)
    with pytest.raises(error, match='it is so') as caught:
        list(client.chat.completions.create(**ASKED, stream=is_stream))
    assert caught.value.code == told


def test_answer_that_fails_in_mid_stream_is_an_error(client, chat_model):
    chat_model.error = CompletionEvent('', 'error', 'the device is gone', 'failed')
    chunks = client.chat.completions.create(**ASKED, stream=True)
    heard = ''
    with pytest.raises(openai.APIError, match='the device is gone'):
        for chunk in chunks:
            heard += chunk.choices[0].delta.content or ''
    assert heard == ''.join(PIECES)


@pytest.mark.parametrize(('code', 'retries'), [('busy', 2), ('cancelled', 1)])
def test_client_tries_again_where_that_is_of_use(server, chat_model, code, retries):
    chat_model.pieces, chat_model.error = (), CompletionEvent('', 'error', 'no', code)
    with openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=1) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**ASKED, timeout=10)
    assert len(chat_model.requests) == retries


def test_no_model_is_no_list_and_an_error(client, chat_model):
    chat_model.model = ''
    assert list(client.models.list()) == []
    with pytest.raises(openai.InternalServerError, match='model is available: start') as caught:
        client.chat.completions.create(**ASKED)
    assert caught.value.response.headers['Retry-After'] == '1'


def test_broken_door_is_a_server_error_without_its_reasons(server, chat_model):
    chat_model.pieces = None
    reply = server.post({'messages': HELLO})
    assert (reply.status, reply.error['message']) == (
        500, 'the server failed; its log says why')


@pytest.mark.parametrize(('changes', 'param', 'why'), [
    ({'messages': None}, 'messages', 'messages must be a list'),
    ({'messages': []}, 'messages', 'there are 0 messages; it must be 1 to 2048'),
    ({'messages': HELLO * 2049}, 'messages', 'there are 2049 messages; at most 2048 are taken'),
    ({'messages': ['hello']}, 'messages[0]', 'messages[0] must be an object'),
    ({'messages': [{'content': 'x'}]}, 'messages[0]', 'messages[0] must be an object with a role'),
    ({'messages': [{'role': 'robot', 'content': 'x'}]}, 'messages[0]', "role 'robot' is unknown"),
    ({'messages': [{'role': 'tool', 'content': 'x'}]}, 'messages[0]', 'tools are not supported'),
    ({'messages': [{'role': 'assistant', 'tool_calls': [{}]}]}, 'messages[0].tool_calls',
     'messages[0].tool_calls is not supported'),
    ({'messages': [{'role': 'user', 'content': [{'type': 'image_url', 'image_url': {}}]}]},
     'messages[0].content', 'may hold only text'),
    ({'messages': [{'role': 'user', 'content': '\ud800'}]}, 'messages[0]', 'surrogate'),
    ({'temperature': 2.1}, 'temperature', 'it must be a number in 0..2'),
    ({'temperature': 'hot'}, 'temperature', 'it must be a number in 0..2'),
    ({'temperature': True}, 'temperature', 'it must be a number in 0..2'),
    ({'top_p': -0.1}, 'top_p', 'it must be a number in 0..1'),
    ({'max_tokens': 0}, 'max_tokens', 'it must be a whole number in 1..'),
    ({'max_tokens': 1.5}, 'max_tokens', 'it must be a whole number in 1..'),
    ({'seed': 'x'}, 'seed', 'it must be a whole number'),
    ({'stop': ['a'] * 5}, 'stop', 'stop must be at most 4 texts'),
    ({'stop': ['']}, 'stop', 'stop must be at most 4 texts'),
    ({'stop': {'a': 1}}, 'stop', 'stop must be a list'),
    ({'stream': 1}, 'stream', 'stream must be true or false'),
    ({'stream_options': {'include_usage': True}}, 'stream_options', 'are for stream: true'),
    ({'stream': True, 'stream_options': {'x': 1}}, 'stream_options', 'x of stream_options'),
    ({'model': 5}, 'model', 'model must be a text'),
    ({'n': 2}, 'n', 'n is supported only as 1'),
    ({'n': True}, 'n', 'n is supported only as 1'),
    ({'logprobs': True}, 'logprobs', 'logprobs is supported only as false'),
    ({'logit_bias': {'5': 1}}, 'logit_bias', 'logit_bias is supported only as empty'),
    ({'presence_penalty': 0.5}, 'presence_penalty', 'presence_penalty is supported only as 0'),
    ({'response_format': {'type': 'json_object'}}, 'response_format',
     'response_format is supported only as {"type": "text"}'),
    ({'tools': [{'type': 'function'}]}, 'tools', 'tools is supported only as empty'),
    ({'reasoning_effort': 'high'}, 'reasoning_effort', 'reasoning_effort is not supported'),
    ({'function_call': {'name': 'f'}}, 'function_call', 'function_call is supported only as'),
    ({'messages': [{'role': 'assistant', 'content': 'x', 'reasoning_content': 'I think'}]},
     'messages[0].reasoning_content', 'messages[0].reasoning_content is not supported'),
    ({'messages': [{'role': 'assistant', 'refusal': 'I will not'}]}, 'messages[0].refusal',
     'messages[0].refusal is not supported'),
    ({'tempreature': 1}, 'tempreature', 'tempreature is not supported')],
    ids=lambda value: str(value)[:40])
def test_what_cannot_be_done_is_named(shared, changes, param, why):
    reply = shared.post(ASKED | changes)
    assert (reply.status, reply.error['type']) == (400, 'invalid_request_error')
    assert reply.error['param'] == param
    assert why in reply.error['message']


@pytest.mark.parametrize(('body', 'why'), [
    (b'', 'this is not valid JSON'), (b'{', 'this is not valid JSON'),
    (b'\xff', 'the body cannot be read'),
    (b'[]', 'this is not a JSON object'), (b'[' * 100_000, 'the body cannot be read'),
    (b'{"messages": ' + b'1' * 10_000 + b'}', 'the body cannot be read')],
    ids=['nothing', 'cut', 'not UTF-8', 'list', 'deep', 'long number'])
def test_what_is_no_json_object_is_a_bad_request(shared, body, why):
    reply = shared.post(body)
    assert (reply.status, reply.error['type']) == (400, 'invalid_request_error')
    assert why in reply.error['message'] or 'messages must be' in reply.error['message']


@pytest.mark.parametrize(('method', 'path', 'status'), [
    ('GET', '/v1/chat/completions', 405), ('POST', '/v1/models', 405), ('GET', '/v1', 404),
    ('GET', '/v1/', 404), ('POST', '/v1/completions', 404), ('POST', '/v1/responses', 404),
    ('GET', '/v1/models/', 404), ('GET', '/v1/models/../../etc/passwd', 404)])
def test_paths_and_methods_that_are_not_there_say_so(shared, method, path, status):
    reply = shared.request(path, method=method, body=b'{}' if method == 'POST' else None,
                           **{'Content-Type': 'application/json'})
    assert reply.status == status
    assert reply.error['type'] == 'invalid_request_error'


@pytest.mark.parametrize(('method', 'path', 'right'), [
    ('POST', '//v1/chat/completions', '/v1/chat/completions'),
    ('POST', '/v1//chat/completions', '/v1/chat/completions'),
    ('POST', '/v1/chat/completions/', '/v1/chat/completions'),
    ('POST', '/chat/completions', '/v1/chat/completions'),
    ('POST', '/v1/v1/chat/completions', '/v1/chat/completions'),
    ('POST', '/api/v1/chat/completions', '/v1/chat/completions'),
    ('GET', '/models', '/v1/models'), ('GET', '//v1/models', '/v1/models'),
    ('GET', '//models/tiny', '/v1/models/tiny'), ('GET', '/v1', 'GET /v1/models'),
    ('GET', '/v1/', 'POST /v1/chat/completions'), ('POST', '/v1/completions', 'GET /v1/models')])
def test_address_one_slash_off_is_told_the_right_one(shared, method, path, right):
    reply = shared.request(path, method=method, body=b'{}' if method == 'POST' else None,
                           **{'Content-Type': 'application/json'})
    assert (reply.status, reply.error['code']) == (404, 'unknown_url')
    message = reply.error['message']
    assert message.startswith(f'there is no {path}; ')
    assert right in message.partition('; ')[2]


def test_every_response_keeps_to_the_published_format(shared):
    check_format(ChatCompletion, json.loads(shared.post(ASKED).body))
    listed = json.loads(shared.request('/v1/models').body)
    assert listed.keys() == {'object', 'data'}
    check_format(Model, listed['data'][0])
    check_format(Model, json.loads(shared.request('/v1/models/tiny').body))
    for options in ({}, {'stream_options': {'include_usage': True}}):
        for chunk in chunks_of(shared.post({**ASKED, 'stream': True, **options}).body):
            check_format(ChatCompletionChunk, chunk)


def test_what_the_specification_requires_is_always_there(shared):
    """Hold answers against the lists of what is required, which the client's types leave open."""
    answer = json.loads(shared.post(ASKED).body)
    assert {'id', 'object', 'created', 'model', 'choices'} <= answer.keys()
    assert {'index', 'message', 'logprobs', 'finish_reason'} <= answer['choices'][0].keys()
    assert {'role', 'content', 'refusal'} <= answer['choices'][0]['message'].keys()
    for chunk in chunks_of(shared.post({**ASKED, 'stream': True}).body):
        assert {'id', 'object', 'created', 'model', 'choices'} <= chunk.keys()
        assert {'index', 'delta', 'finish_reason'} <= chunk['choices'][0].keys()
    options = {'stream': True, 'stream_options': {'include_usage': True}}
    assert all('usage' in chunk for chunk in chunks_of(shared.post(ASKED | options).body))


@pytest.mark.parametrize('broken', [{'object': 'chat'}, {'created': '1'}, {'more': 1},
                                    {'choices': [{'index': 0}]}], ids=str)
def test_the_check_of_the_format_can_fail(shared, broken):
    with pytest.raises((ValueError, AssertionError)):
        check_format(ChatCompletion, json.loads(shared.post(ASKED).body) | broken)


@pytest.fixture(scope='module')
def shared():
    with running(FakeChatModel()) as server:
        yield server


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(['user', 'system', 'tiny', 'text', 'hello']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text() | st.sampled_from(['role', 'content', 'type', 'text']), inner, max_size=4),
    max_leaves=12)
names = st.sampled_from([
    'model', 'messages', 'temperature', 'top_p', 'max_tokens', 'max_completion_tokens', 'stop',
    'seed', 'stream', 'stream_options', 'n', 'tools', 'response_format', 'logit_bias', 'user'])
messages = st.lists(st.fixed_dictionaries(
    {'role': st.sampled_from(['user', 'assistant', 'system', 'tool']), 'content': anything}),
    min_size=1, max_size=3)
near_misses = st.builds(lambda changes, said: ASKED | changes | said,
                        st.dictionaries(names, anything, max_size=3),
                        st.just({}) | st.builds(lambda said: {'messages': said}, messages))
bodies = (st.binary(max_size=200)
          | st.builds(lambda found: json.dumps(found).encode(), anything | near_misses)
          | st.builds(lambda found, cut: json.dumps(found).encode()[:-cut], near_misses,
                      st.integers(1, 9)))


@settings(deadline=None, max_examples=300,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
def test_malformed_json_is_never_the_servers_fault(shared, body):
    reply = shared.post(body)
    assert reply.status in (200, 400, 404)
    if reply.status != 200:
        assert reply.error['message']


@settings(deadline=None, max_examples=100,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
       method=st.sampled_from(['GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH']))
def test_no_path_is_the_servers_fault(shared, path, method):
    reply = shared.exchange(f'{method} /v1/{path} HTTP/1.1\r\nHost: localhost\r\n'
                            'Connection: close\r\nContent-Length: 0\r\n\r\n'.encode())
    assert 400 <= int(reply.split(b' ', 2)[1]) < 500 or path == 'models'
