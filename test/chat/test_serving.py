"""The server answers what it accepted, in order, and tells its listener all of it."""

import gc
from threading import Event, Thread

import pytest
from support.held_texts import longest_text
from support.scripted_server import ANSWER, LONGEST, PIECES, READ, request, SAID, Scripted

from tinyllama_ros.chat.completion import CompletionEvent
from tinyllama_ros.chat.early_cancels import EARLY_CANCELS
from tinyllama_ros.chat.events import Answer, CacheReset, ChatOptions, TextDelta
from tinyllama_ros.chat.notices import beginning, LONGEST_RECORD, Notice, TurnNotice
from tinyllama_ros.chat.serving import Server, STOPPED
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import BackendError, LengthError, ModelError, PromptError, RequestError


def test_one_prompt_is_told_from_its_first_token_to_its_last():
    assert Scripted().serve('a') == [
        ('state', 'reading'), ('state', 'answering'), ('token', 'I am one.'), ('token', ' You'),
        ('sentence', 'I am one.'), ('token', ' are two.'), ('sentence', 'You are two.'),
        ('response', SAID), ('state', 'idle')]


def test_sentences_are_without_markup_and_tokens_and_response_are_raw():
    text = '**Two** things:\n1. 2*3*4 is `24`.\n---\n2. [Done](https://x.y). 🙂'
    deltas = [text[start:start + 3] for start in range(0, len(text), 3)]
    stage = Scripted(a=[*map(TextDelta, deltas), ANSWER])
    stage.serve('a')
    assert stage.recorder.all('sentence') == ['Two things:', '1. 2*3*4 is 24.', '2. Done.']
    assert stage.recorder.all('token') == deltas
    assert stage.recorder.all('response') == [text]


def test_prompts_are_answered_in_order():
    stage = Scripted(depth=5)
    stage.serve('a', 'b', 'c', 'd', 'e')
    assert stage.script.prompts == ['a', 'b', 'c', 'd', 'e']
    assert stage.recorder.all('response') == [SAID] * 5
    assert stage.recorder.all('state') == ['reading', 'answering'] * 5 + ['idle']


def test_server_is_idle_once_it_serves():
    stage = Scripted()
    assert stage.server.state == 'loading'
    assert stage.serve() == [('state', 'idle')]
    assert stage.serve() == [('state', 'idle')]


def test_prompt_beyond_the_depth_is_refused_and_the_others_are_answered():
    stage = Scripted(depth=2)
    stage.serve('a', 'b', 'c')
    assert stage.script.prompts == ['a', 'b']
    assert [error for error in stage.recorder.all('error')] == [
        "the prompt 'c' was refused: 2 prompts are waiting already; send it again when an answer "
        'has come, or raise queue_depth']


def test_prompt_and_request_that_can_never_fit_are_refused_where_they_are_submitted():
    stage, long = Scripted(depth=1), 'a' * (LONGEST + 1)
    stage.server.submit(long)
    stage.server.submit_request(request(long))
    assert stage.server.waiting == 0
    assert stage.recorder.record == [('refused', beginning(long), 'it is too long; shorten it')]
    assert stage.told() == [('error', 'too_long')]
    assert stage.server.statistics.refused == 2


def test_refused_prompt_is_recorded_with_its_beginning():
    assert beginning('a' * LONGEST_RECORD) == 'a' * LONGEST_RECORD
    assert beginning('a' * (LONGEST_RECORD + 1)) == (
        'a' * LONGEST_RECORD + f'… ({LONGEST_RECORD + 1} characters)')
    stage = Scripted(depth=1)
    stage.serve('a' * LONGEST, 'b' * LONGEST)
    assert [text for kind, text, *_ in stage.recorder.record] == [
        beginning('b' * LONGEST), 'a' * LONGEST, SAID]


def test_waiting_counts_the_queue():
    stage = Scripted()
    stage.server.submit('a')
    stage.server.submit('b')
    assert stage.server.waiting == 2
    stage.serve()
    assert stage.server.waiting == 0


def test_refused_prompt_has_an_error_and_no_response():
    stage = Scripted(a=[PromptError('it is empty, or not valid UTF-8; send a text')])
    stage.serve('a', 'b')
    assert stage.recorder.all('error') == [
        "the prompt 'a' was refused: it is empty, or not valid UTF-8; send a text"]
    assert stage.recorder.all('response') == [SAID]
    assert stage.recorder.all('state')[-1] == 'idle'


def test_long_prompt_is_quoted_in_part():
    stage = Scripted(**{'a' * 50: [PromptError('it is too long')]})
    stage.serve('a' * 50)
    assert stage.recorder.all('error') == [f"the prompt '{'a' * 40}…' was refused: it is too long"]


@pytest.mark.parametrize(('error', 'told'), [
    (BackendError('the device is gone'), 'the device is gone'),
    (ValueError('oh'), r"ValueError('oh')")], ids=['ours', 'not_ours'])
def test_failed_answer_has_an_error_and_what_was_said(error, told):
    stage = Scripted(a=[*READ, *PIECES[:2], error])
    stage.serve('a')
    assert stage.recorder.all('error') == [f"the answer to 'a' failed: {told}"]
    assert stage.recorder.all('response') == ['I am one. You']
    assert stage.server.state == 'error'


def test_answer_after_a_failure_is_whole():
    stage = Scripted(a=[BackendError('the device is gone')])
    stage.serve('a', 'b')
    assert stage.recorder.all('response') == ['', SAID]
    assert stage.recorder.all('state') == ['error', 'reading', 'answering', 'idle']


def test_reset_in_an_answer_is_announced_once_and_leaves_no_seam():
    stage = Scripted(a=[*READ, PIECES[0], CacheReset(), *READ, *PIECES[1:], ANSWER])
    stage.serve('a')
    assert stage.recorder.all('reset') == ['full']
    assert stage.recorder.all('response') == [SAID]
    assert stage.recorder.all('state') == ['reading', 'answering', 'idle']
    assert stage.server.statistics.resets == {'full': 1}


def test_recovery_in_an_answer_is_announced_once_and_leaves_no_seam():
    stage = Scripted(a=[*READ, PIECES[0], CacheReset('recovered'), *READ, *PIECES[1:], ANSWER])
    stage.serve('a')
    assert stage.recorder.all('reset') == ['recovered']
    assert stage.recorder.all('response') == [SAID]
    assert stage.recorder.all('state') == ['reading', 'answering', 'idle']
    assert stage.server.statistics.resets == {'recovered': 1}


def test_cancel_while_answering_stops_before_the_next_event():
    stage = Scripted(a=[*READ, PIECES[0], lambda: stage.server.cancel(), PIECES[1],
                        AssertionError('one pass too many')])
    stage.serve('a', 'b')
    assert stage.recorder.all('response') == ['I am one. You', SAID]
    assert stage.recorder.all('error') == []
    assert stage.script.ended == ['a', 'b']


def test_cancel_while_reading_gives_an_empty_response():
    stage = Scripted(a=[lambda: stage.server.cancel(), READ[0], AssertionError('a pass too many')])
    stage.serve('a')
    assert stage.recorder.all('response') == ['']
    assert stage.recorder.all('state') == ['reading', 'idle']


def test_cancelled_answer_does_not_speak_its_half_sentence():
    stage = Scripted(a=[*PIECES[:2], lambda: stage.server.cancel(), PIECES[2]])
    stage.serve('a')
    assert stage.recorder.all('sentence') == ['I am one.']


def test_cancel_says_whether_there_was_an_answer_to_stop():
    said = []
    stage = Scripted(a=[lambda: said.append(stage.server.cancel()), *READ])
    said.append(stage.server.cancel())
    stage.serve('a')
    said.append(stage.server.cancel())
    assert [ended is not None for ended in said] == [False, True, False]


def test_reset_clears_the_conversation_and_keeps_the_queue():
    stage = Scripted()
    stage.serve()
    stage.server.submit('a')
    done = stage.server.reset()
    assert not done.is_set()
    stage.serve()
    assert done.is_set()
    assert stage.script.reset_to == ['Be brief.']
    assert stage.recorder.heard[:3] == [('state', 'idle'), ('reset', 'requested'),
                                        ('state', 'reading')]
    assert stage.recorder.all('response') == [SAID]


def test_reset_cancels_the_answer_under_way():
    stage = Scripted(a=[PIECES[0], lambda: stage.server.reset(), PIECES[1],
                        AssertionError('one pass too many')])
    stage.serve('a', 'b')
    assert stage.recorder.all('response') == ['I am one. You', SAID]
    end = stage.recorder.heard.index(('response', 'I am one. You'))
    assert stage.recorder.heard[end + 1:end + 3] == [('interrupted', ''), ('reset', 'requested')]


def test_reset_ends_a_failure():
    stage = Scripted(a=[BackendError('the device is gone')])
    stage.serve('a')
    stage.server.reset()
    stage.serve()
    assert stage.server.state == 'idle'
    assert stage.script.recovered == [None]


def test_reset_that_cannot_load_the_model_again_stays_an_error_and_the_next_tries_again():
    stage = Scripted(a=[BackendError('the device is gone')])
    stage.serve('a')
    stage.script.recover_error = BackendError('no such device')
    done = stage.server.reset()
    stage.serve()
    assert done.is_set()
    assert stage.recorder.all('error')[-1] == 'the model could not be loaded again: no such device'
    assert stage.server.state == 'error'
    stage.script.recover_error = None
    stage.server.reset()
    stage.serve()
    assert stage.server.state == 'idle'


def test_reset_at_the_close_loads_nothing():
    stage = Scripted()
    stage.server.reset()
    stage.server.close()
    assert stage.script.recovered == []


def test_reset_that_cannot_keep_the_system_prompt_ends_all_the_same():
    stage = Scripted()

    def fail(system_prompt: str) -> None:
        raise ModelError('the template takes none')

    stage.script.reset = fail
    done = stage.server.reset()
    stage.serve('a')
    assert done.is_set()
    assert stage.recorder.all('error') == [
        'the system prompt cannot be used: the template takes none']
    assert stage.recorder.all('response') == [SAID]


def test_close_answers_what_waits_with_nothing():
    stage = Scripted()
    stage.server.submit('a')
    stage.server.submit('b')
    stage.server.close()
    assert stage.recorder.all('response') == ['', '']
    assert stage.recorder.all('error') == [
        f"the prompt '{prompt}' was not answered: the node is stopping; send it again"
        for prompt in 'ab']
    assert stage.server.waiting == 0


def test_close_cuts_the_answer_under_way_short_and_waits_for_it():
    begun, closing = Event(), Event()
    stage = Scripted(a=[*READ, PIECES[0], begun.set, closing.wait, PIECES[1], *PIECES * 1000])
    cut = stage.server._cut
    stage.server._cut = lambda end: (cut(end), closing.set())
    stage.server.submit('a')
    stage.server.submit('b')
    worker = Thread(target=stage.server.serve)
    worker.start()
    assert begun.wait(10)
    stage.server.close()
    assert stage.recorder.all('response') == ['I am one. You', '']
    worker.join(10)
    assert stage.script.prompts == ['a']


def test_answer_that_a_close_cuts_short_says_that_the_node_stops():
    stage = Scripted()
    stage.script._answers['a'] = [*READ, PIECES[0], lambda: stage.server._cut(STOPPED), *PIECES]
    stage.serve('a', request())
    assert stage.recorder.record[1:] == [('stopped', 'I am one.I am one.', STOPPED.why)]
    assert stage.told()[-1] == ('error', 'stopping')


def test_abandoned_server_tells_every_end_once_and_does_not_wait_for_the_model():
    begun, hold = Event(), Event()
    stage = Scripted(a=[*READ, PIECES[0], begun.set, hold.wait, PIECES[1], ANSWER])
    stage.server.submit('a')
    worker = Thread(target=stage.server.serve)
    worker.start()
    assert begun.wait(10)
    stage.server.submit_request(request('b'))
    stage.server.submit('c')
    stage.server.abandon()
    told = list(stage.recorder.record)
    assert told == [('asked', 'a'), ('stopped', 'I am one.', STOPPED.why),
                    ('dropped', 'c', STOPPED.why)]
    assert stage.told() == [('accepted', ''), ('error', 'stopping')]
    hold.set()
    worker.join(10)
    assert stage.recorder.record == told


def test_close_may_come_twice_and_serving_go_on():
    stage = Scripted()
    stage.server.close()
    stage.server.close()
    stage.server.start()
    stage.serve('a')
    assert stage.recorder.all('response') == [SAID]


def test_closed_server_refuses_prompts_and_is_silent():
    stage = Scripted()
    stage.server.close()
    assert stage.serve('late') == [
        ('error', "the prompt 'late' was refused: the node is stopping; send it again when "
         'it is idle')]


def test_reset_that_waits_at_the_close_is_done():
    stage = Scripted()
    done = stage.server.reset()
    stage.server.close()
    assert done.is_set()


def test_reset_after_the_close_is_not_waited_for_in_vain():
    stage = Scripted()
    stage.server.close()
    assert stage.server.reset().is_set()


def test_reset_that_fails_in_an_unforeseen_way_ends_all_the_same():
    stage = Scripted()
    stage.script.reset = lambda system_prompt: 1 / 0
    done = stage.server.reset()
    with pytest.raises(ZeroDivisionError):
        stage.server.serve()
    assert done.is_set()


def test_failing_listener_does_not_leave_a_finished_answer_to_cancel():
    stage = Scripted()
    stage.recorder.then = lambda notice: (
        1 / 0 if isinstance(notice, TurnNotice) and notice.kind == 'answered' else None)
    with pytest.raises(ZeroDivisionError):
        stage.serve('a')
    assert not stage.server.cancel()


def test_record_has_every_turn_and_reset_in_order():
    stage = Scripted(depth=4, long=[PromptError('it is too long')], broken=[BackendError('gone')],
                     cut=[PIECES[0], lambda: stage.server.cancel(), PIECES[1]],
                     full=[*READ, CacheReset(), *PIECES, ANSWER])
    stage.serve('long', 'broken', 'cut', 'full', 'beyond')
    stage.server.reset()
    stage.serve()
    stage.server.submit('late')
    stage.server.close()
    assert stage.recorder.record == [
        ('refused', 'beyond', '4 prompts are waiting already; send it again when an answer has '
         'come, or raise queue_depth'),
        ('asked', 'long'), ('refused', 'long', 'it is too long'),
        ('asked', 'broken'), ('failed', '', 'gone'), ('asked', 'cut'),
        ('stopped', 'I am one. You'), ('asked', 'full'), ('reset', 'full'),
        ('answered', SAID), ('reset', 'requested'),
        ('dropped', 'late', 'the node is stopping; send it again')]


def test_statistics_count_what_happened():
    stage = Scripted(depth=5, bad=[PromptError('no')], broken=[BackendError('gone')],
                  cut=[lambda: stage.server.cancel(), *PIECES])
    stage.serve('a', 'b', 'bad', 'broken', 'cut')
    found = stage.server.statistics
    assert (found.answers, found.cancelled, found.refused, found.failed) == (3, 1, 1, 1)
    assert (found.prefill_tokens, found.generated_tokens) == (10, 8)
    assert found.last == ANSWER
    assert found.last.tokens_per_second == 2.0


def test_options_are_asked_for_each_turn():
    stage = Scripted()
    wanted = iter([ChatOptions('one'), ChatOptions('two')])
    stage.server = Server(stage.script, stage.recorder.tell, options=lambda: next(wanted), depth=3)
    stage.serve('a', 'b')
    assert [each.system_prompt for each in stage.script.options] == ['one', 'two']


def test_request_is_told_from_its_acceptance_to_its_end():
    stage = Scripted()
    stage.serve(request())
    assert stage.recorder.completions == [
        CompletionEvent('one', 'accepted'), CompletionEvent('one', 'token', 'I am one.'),
        CompletionEvent('one', 'token', ' You'), CompletionEvent('one', 'token', ' are two.'),
        CompletionEvent('one', 'done', SAID, finish='stop', prompt_tokens=5, completion_tokens=4)]


def test_request_is_heard_by_nobody_else():
    stage = Scripted(a=[*READ, PIECES[0], CacheReset(), *PIECES[1:], ANSWER])
    assert stage.serve(request()) == [('state', 'reading'), ('state', 'answering'),
                                      ('state', 'idle')]
    assert stage.recorder.record == []
    assert ('reset', 'full') in stage.told()


def test_requests_and_prompts_are_answered_in_order():
    stage = Scripted(depth=4)
    stage.serve('a', request('b'), 'c', request('d', 'two'))
    assert stage.script.prompts == ['a', 'b', 'c', 'd']
    assert stage.recorder.all('response') == [SAID] * 2


def test_request_beyond_the_depth_is_busy():
    stage = Scripted(depth=1)
    stage.serve('a', request('b'))
    assert stage.told() == [('error', 'busy')]
    assert stage.script.prompts == ['a']


def test_request_says_how_it_is_answered():
    stage = Scripted()
    stage.server = Server(stage.script, stage.recorder.tell, depth=3, options=lambda: ChatOptions(
        'Be brief.', 100, sampling=SamplingOptions(0.2, 5, 0.9)))
    stage.serve(request(temperature=0.5, seed=7, max_tokens=9, stop=('x',)))
    options, = stage.script.options
    assert options.sampling == SamplingOptions(0.5, 5, 0.9, seed=7)
    assert (options.system_prompt, options.max_tokens, options.stop) == ('', 9, ('x',))


@pytest.mark.parametrize(('wanted', 'allowed', 'found'), [
    (None, 5, 5), (9, 5, 5), (3, 5, 3), (9, 0, 9), (None, 0, 0)])
def test_answer_to_a_request_is_no_longer_than_the_node_allows(wanted, allowed, found):
    stage = Scripted()
    stage.server = Server(stage.script, stage.recorder.tell, depth=3,
                          options=lambda: ChatOptions(max_tokens=allowed))
    stage.serve(request(max_tokens=wanted))
    assert stage.script.options[0].max_tokens == found


@pytest.mark.parametrize(('error', 'code'), [
    (LengthError('it is too long'), 'too_long'), (PromptError('no system'), 'invalid_request')])
def test_refused_request_leaves_the_node_as_it_is(error, code):
    stage = Scripted(a=[error])
    stage.serve(request(), request('b', 'two'))
    assert stage.told()[1:] == [('error', code)]
    assert stage.told('two')[-1] == ('done', SAID)
    assert stage.recorder.all('error') == []
    assert stage.server.statistics.refused == 1


@pytest.mark.parametrize('error', [BackendError('the device is gone'), ValueError('oh')])
def test_request_that_fails_is_an_error_of_the_node(error):
    stage = Scripted(a=[*READ, PIECES[0], error])
    stage.serve(request())
    assert stage.told()[1:] == [('token', 'I am one.'), ('error', 'failed')]
    assert str(error) in stage.recorder.all('error')[0]
    assert stage.recorder.all('response') == []
    assert (stage.server.state, stage.server.statistics.failed) == ('error', 1)


@pytest.mark.parametrize('stop', [
    lambda server: server.cancel_request('one'), lambda server: server.cancel(),
    lambda server: server.reset()], ids=['its own cancel', 'cancel', 'reset'])
def test_cancelled_request_ends_before_the_next_pass(stop):
    stage = Scripted(a=[*READ, PIECES[0], lambda: stop(stage.server), PIECES[1],
                        AssertionError('one pass too many')])
    stage.serve(request())
    assert stage.told()[-2:] == [('token', ' You'), ('error', 'cancelled')]
    assert stage.script.ended == ['a']
    assert stage.server.statistics.cancelled == 1


def test_cancel_of_one_request_leaves_the_others():
    stage = Scripted(depth=4, a=[lambda: stage.server.cancel_request('two'), *PIECES, ANSWER])
    stage.serve(request(), request('b', 'two'), request('c', 'three'), 'd')
    assert stage.script.prompts == ['a', 'c', 'd']
    assert stage.told('two') == [('accepted', ''), ('error', 'cancelled')]
    assert [stage.told(name)[-1] for name in ('one', 'three')] == [('done', SAID)] * 2


def test_cancel_that_overtakes_its_request_counts():
    stage = Scripted()
    stage.server.cancel_request('one')
    stage.serve(request(), request('b', 'two'))
    assert stage.told() == [('error', 'cancelled')]
    assert stage.script.prompts == ['b']


def test_cancel_that_overtakes_its_request_counts_once():
    stage = Scripted()
    stage.server.cancel_request('one')
    stage.serve(request(), request())
    assert stage.told() == [('error', 'cancelled'), ('accepted', ''), *(
        ('token', delta.text) for delta in PIECES if delta.text), ('done', SAID)]


@pytest.mark.parametrize('ended', [request(), request('bad'), request('a' * (LONGEST + 1))],
                         ids=['answered', 'refused', 'refused unread'])
def test_cancel_that_comes_after_the_end_leaves_the_next_request_of_that_id(ended):
    stage = Scripted(bad=[PromptError('no')])
    stage.serve(ended)
    stage.server.cancel_request('one')
    stage.serve(request('b'))
    assert stage.told()[-1] == ('done', SAID)


def test_cancel_of_what_is_no_id_is_not_remembered():
    stage = Scripted()
    stage.server.cancel_request('id0')
    for number in range(EARLY_CANCELS):
        stage.server.cancel_request(f'{number}' * 1000)
    stage.serve(request('a', 'id0'))
    assert stage.told('id0') == [('error', 'cancelled')]


@pytest.mark.parametrize('submit', [lambda server: server.submit('a'),
                                    lambda server: server.submit_request(request())],
                         ids=['prompt', 'request'])
def test_token_of_a_long_answer_copies_nothing_of_the_answer_before_it(submit):
    lengths = []
    words = [TextDelta(f' w{number}') for number in range(1000)]
    answer = Answer(''.join(word.text for word in words), 'stop', 0, 5, 4, 1, 1)
    stage = Scripted(a=[*words, answer])
    stage.recorder.then = lambda notice: lengths.append(
        longest_text(stage.server._running.job) if stage.server._running else 0)
    submit(stage.server)
    stage.server.serve()
    assert len(lengths) > 1000 and max(lengths) < 10


def test_only_so_many_cancels_are_remembered():
    stage = Scripted()
    for number in range(EARLY_CANCELS + 1):
        stage.server.cancel_request(f'id{number}')
    stage.serve(request('a', 'id0'), request('b', 'id1'))
    assert stage.script.prompts == ['a']


def test_cancel_of_an_answered_request_stops_nothing():
    stage = Scripted(b=[lambda: stage.server.cancel_request('one'), *PIECES, ANSWER])
    stage.serve(request(), 'b')
    assert stage.recorder.all('response') == [SAID]


def test_close_tells_the_requests_that_wait():
    stage = Scripted()
    stage.server.submit_request(request())
    stage.server.close()
    stage.server.submit_request(request('b', 'two'))
    assert stage.told() == [('accepted', ''), ('error', 'stopping')]
    assert stage.told('two') == [('error', 'stopping')]
    assert stage.recorder.all('response') == []


def test_requests_are_counted_apart():
    stage = Scripted()
    stage.serve(request(), 'b')
    assert (stage.server.statistics.answers, stage.server.statistics.completions) == (1, 1)


def test_request_that_is_refused_for_a_full_queue_counts_as_a_prompt_does():
    stage = Scripted(depth=1)
    stage.serve('a', request('b'), 'c')
    assert stage.server.statistics.refused == 2


def test_request_that_is_cancelled_while_it_waits_counts_as_cancelled():
    stage = Scripted()
    stage.server.submit_request(request())
    stage.server.cancel_request('one')
    stage.server.cancel_request('two')
    stage.serve(request('b', 'two'))
    assert stage.server.statistics.cancelled == 2
    assert stage.script.prompts == []


def test_request_that_could_not_be_read_is_told_and_counted():
    stage = Scripted()
    stage.server.refuse_request('one', RequestError('messages must be a list', 'messages'))
    event, = stage.recorder.completions
    assert (event.code, event.param) == ('invalid_request', 'messages')
    assert stage.server.statistics.refused == 1


def test_prompts_and_requests_that_a_closed_server_drops_count_as_failed():
    stage = Scripted()
    stage.server.submit('a')
    stage.server.submit_request(request())
    stage.server.close()
    assert stage.server.statistics.failed == 2


@pytest.mark.parametrize('kind', ['accepted', 'token', 'done', 'error'])
def test_listener_may_submit_and_cancel_from_within_a_notice_of_a_request(kind):
    stage = Scripted(depth=2)
    called = []

    def call_back(notice: Notice) -> None:
        if isinstance(notice, CompletionEvent) and notice.kind == kind and not called:
            called.append(kind)
            stage.server.submit('from within')
            stage.server.cancel_request('another')
    stage.recorder.then = call_back
    stage.server.submit_request(request())
    if kind == 'error':
        stage.server.cancel_request('one')
    finished = Thread(target=stage.server.serve, daemon=True)
    finished.start()
    finished.join(10)
    assert not finished.is_alive()
    assert 'from within' in stage.script.prompts


def test_listener_may_submit_from_within_a_refusal():
    stage = Scripted(depth=1)
    stage.recorder.then = lambda notice: (
        stage.server.submit('b') if isinstance(notice, TurnNotice) and notice.kind == 'refused'
        and notice.text == 'too many' else None)
    finished = Thread(target=lambda: stage.serve('a', 'too many'), daemon=True)
    finished.start()
    finished.join(10)
    assert not finished.is_alive()
    assert [kind for kind, *_ in stage.recorder.record] == [
        'refused', 'refused', 'asked', 'answered']


def test_submitted_prompt_is_answered_without_a_further_call():
    stage, answered = Scripted(), Event()
    stage.recorder.then = lambda notice: (
        answered.set() if isinstance(notice, TurnNotice) and notice.kind == 'answered' else None)
    stage.server.start()
    stage.server.submit('a')
    assert answered.wait(10)
    done = stage.server.reset()
    assert done.wait(10)
    stage.server.close()
    assert stage.recorder.all('response') == [SAID]


def test_notices_of_a_turn_bear_its_number_and_each_turn_ends_once():
    stage = Scripted(depth=4, bad=[PromptError('no')])
    stage.serve('a', 'bad')
    stage.server.submit('late')
    stage.server.close()
    ends = ('answered', 'stopped', 'failed', 'refused', 'dropped')
    assert [each for each in stage.recorder.turns if each[1] in ends] == [
        (1, 'answered'), (2, 'refused'), (3, 'dropped')]
    assert {turn for turn, _ in stage.recorder.turns} == {1, 2, 3}


def test_cancel_during_a_rendering_that_is_given_up_is_a_stop_and_no_refusal():
    stage = Scripted(a=[lambda: stage.server.cancel(), PromptError('the template takes too long')])
    stage.serve('a')
    assert [kind for kind, *_ in stage.recorder.record] == ['asked', 'stopped']
    assert stage.recorder.all('error') == []


def test_answer_that_yields_nothing_after_a_cancel_is_a_stop():
    stage = Scripted(a=[lambda: stage.server.cancel()])
    stage.serve('a')
    assert stage.recorder.all('response') == ['']
    assert stage.server.statistics.cancelled == 1


def test_server_keeps_nothing_of_prompts_that_are_answered():
    stage = Scripted()

    def objects_after(prompts: int) -> int:
        for _ in range(prompts):
            stage.serve('a')
            stage.recorder.heard.clear()
            stage.recorder.record.clear()
            stage.recorder.turns.clear()
            for kept in (stage.script.prompts, stage.script.options, stage.script.ended):
                kept.clear()
        gc.collect()
        return len(gc.get_objects())
    before = objects_after(20)
    assert abs(objects_after(500) - before) < 100
