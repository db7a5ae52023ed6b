"""The real OpenAI client, the real web node and the real node of the model, each by itself."""

from concurrent.futures import ThreadPoolExecutor
import re

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
openai = pytest.importorskip('openai', reason="pip install -e '.[test]'")
pytest.importorskip('aiohttp', reason='pip install aiohttp')

from support.robot import build_model, KV_LENGTH, poll_until, Robots  # noqa: E402

WEB = 'import sys; from tinyllama_ros.web.node import main; sys.exit(main())'
DEFAULTS = {'max_tokens': 40, 'answer_room': 32, 'sampling.temperature': 0.0,
            'sampling.top_p': 1.0, 'sampling.seed': -1, 'system_prompt': ''}
HELLO = [{'role': 'user', 'content': 'hello'}]
TOLD = ('token', 'sentence', 'response', 'cache_reset', 'error')
"""What a robot would act on."""


@pytest.fixture(scope='module')
def robots(tmp_path_factory):
    robots = Robots(tmp_path_factory.mktemp('api'))
    yield robots
    robots.close()


@pytest.fixture(scope='module')
def nodes(robots, tmp_path_factory):
    """Start both nodes; return a listener to the first and the address of the second."""
    model = build_model(tmp_path_factory.mktemp('model') / 'talkative')
    process, recorder = robots.serve(model=str(model), threads=1, queue_depth=4, **DEFAULTS)
    web = robots.start(namespace=recorder.target.rpartition('/')[0], program=WEB,
                       parameters={'model_node': recorder.target, 'port': 0,
                                   'requests_per_second': 1000.0})
    poll_until(lambda: 'open http' in web.log or not web.is_running(), 'address')
    yield recorder, re.search(r'open (http://\S+) in', web.log)[1]
    assert [web.stop(), process.stop()] == [0, 0]
    assert 'Traceback' not in web.log + process.log


@pytest.fixture
def recorder(nodes):
    """Give a recorder of an idle node that remembers nothing, and record from here on."""
    recorder, _ = nodes
    assert recorder.set(DEFAULTS) == ''
    recorder.wait_for_state('idle')
    assert recorder.request('reset').success
    recorder.wait_for_state('idle')
    recorder.forget()
    return recorder


@pytest.fixture
def client(nodes):
    with openai.OpenAI(base_url=f'{nodes[1]}v1', api_key='none', max_retries=0, timeout=20,
                       _strict_response_validation=True) as client:
        poll_until(lambda: list(client.models.list()), 'model')
        yield client


def complete(client, messages, **options):
    return client.chat.completions.create(model='talkative', messages=messages, **options)


def test_answer_in_pieces_is_the_whole_answer(client, recorder):
    whole = complete(client, HELLO)
    *chunks, usage = complete(client, HELLO, stream=True, stream_options={'include_usage': True})
    said = [chunk.choices[0].delta.content or '' for chunk in chunks]
    assert ''.join(said) == whole.choices[0].message.content
    assert len(list(filter(None, said))) > 10
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == 'length'
    assert whole.usage.completion_tokens == usage.usage.completion_tokens == 40


def test_answer_is_the_one_that_the_topics_give(client, recorder):
    answer = complete(client, HELLO).choices[0].message.content
    assert answer == recorder.ask('hello')


def test_robot_says_and_remembers_nothing_of_it(client, recorder):
    first = recorder.ask('hello')
    recorder.forget()
    complete(client, [{'role': 'user', 'content': 'who are you?'}])
    recorder.wait_for_state('idle')
    assert {topic: recorder.texts(topic) for topic in TOLD} == {topic: [] for topic in TOLD}
    assert recorder.texts('state') == ['reading', 'answering', 'idle']
    second = recorder.ask('again')
    recorder.request('reset')
    assert [recorder.ask('hello'), recorder.ask('again')] == [first, second]


def test_history_of_the_client_is_read_from_the_cache(client, recorder):
    first = complete(client, HELLO)
    said = {'role': 'assistant', 'content': first.choices[0].message.content}
    again = complete(client, [*HELLO, said, {'role': 'user', 'content': 'more'}])
    assert again.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert again.usage.prompt_tokens > again.usage.prompt_tokens_details.cached_tokens


def test_three_at_once_and_a_prompt_are_answered_one_after_the_other(client, recorder):
    alone = [complete(client, [{'role': 'user', 'content': text}]).choices[0].message.content
             for text in 'abc']
    recorder.forget()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(complete, client, [{'role': 'user', 'content': text}])
                   for text in 'abc']
        recorder.ask('d')
        together = [future.result().choices[0].message.content for future in futures]
    recorder.wait_for_state('idle')
    assert together == alone
    busy = [state for state in recorder.texts('state') if state != 'idle']
    assert busy == ['reading', 'answering'] * 4


def test_options_reach_the_engine(client, recorder):
    short = complete(client, HELLO, max_tokens=3)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, 'length')
    seeded = [complete(client, HELLO, temperature=1.5, seed=seed).choices[0].message.content
              for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]


def test_answer_ends_before_its_stop_text(client, recorder):
    whole = complete(client, HELLO).choices[0].message.content
    stop = whole[9:12]
    cut = complete(client, HELLO, stop=[stop])
    assert cut.choices[0].message.content == whole[:whole.index(stop)]
    assert cut.choices[0].finish_reason == 'stop'


def test_client_that_leaves_stops_the_model(client, recorder):
    recorder.set({'max_tokens': 0})
    stream = complete(client, HELLO, stream=True)
    for _, _ in zip(range(5), stream, strict=False):
        pass
    stream.close()
    recorder.wait_for_state('idle')
    assert recorder.diagnostics()['answers cancelled'] != '0'


def test_client_that_leaves_the_queue_is_never_answered(client, recorder):
    recorder.set({'max_tokens': 0})
    recorder.say('for ever')
    recorder.wait_for_state('answering')
    with pytest.raises(openai.APITimeoutError):
        complete(client, HELLO, timeout=0.3)
    poll_until(lambda: recorder.diagnostics()['prompts waiting'] == '0', 'empty queue')
    recorder.request('cancel')
    recorder.wait_for_responses()
    assert recorder.texts('state') == ['reading', 'answering', 'idle']


def test_answer_that_somebody_stops_is_an_error(client, recorder):
    recorder.set({'max_tokens': 0})
    stream = complete(client, HELLO, stream=True)
    next(stream)
    recorder.request('cancel')
    with pytest.raises(openai.APIError, match='it was cancelled'):
        list(stream)


def test_messages_that_do_not_fit_are_refused_with_the_length_of_both(client, recorder):
    with pytest.raises(openai.BadRequestError, match=r'it is too long: .* at most 480 fit'
                       ) as caught:
        complete(client, [{'role': 'user', 'content': 'x' * 600}])
    assert caught.value.code == 'context_length_exceeded'
    assert recorder.texts('error') == []


def test_answer_goes_on_over_a_reset_of_the_cache(client, recorder):
    recorder.set({'max_tokens': 90})
    answer = complete(client, [{'role': 'user', 'content': 'x' * 430}])
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens > KV_LENGTH
    assert answer.usage.completion_tokens == 90
    assert recorder.diagnostics()['resets, full'] != '0'
    assert recorder.texts('cache_reset') == []


def test_full_queue_is_said_at_once(client, recorder):
    recorder.set({'max_tokens': 0})
    recorder.say(*'abcde')
    poll_until(lambda: recorder.diagnostics()['prompts waiting'] == '4', 'full queue')
    with pytest.raises(openai.InternalServerError, match='4 prompts are waiting already'):
        complete(client, HELLO)
    recorder.set({'max_tokens': 1})
    recorder.request('cancel')
    recorder.wait_for_responses(5)


def test_node_that_is_away_is_said_and_found_again(client, recorder):
    assert recorder.change_state('deactivate')
    poll_until(lambda: not list(client.models.list()), 'empty list')
    with pytest.raises(openai.InternalServerError, match='no language model is available'):
        complete(client, HELLO)
    assert recorder.change_state('activate')
    poll_until(lambda: list(client.models.list()), 'model')
    assert complete(client, HELLO).choices[0].message.content
