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
    fake = Scripted(a=[*map(TextDelta, deltas), ANSWER])
    fake.serve('a')
    assert fake.recorder.all('sentence') == ['Two things:', '1. 2*3*4 is 24.', '2. Done.']
    assert fake.recorder.all('token') == deltas
    assert fake.recorder.all('response') == [text]


def test_prompts_are_answered_in_order():
    fake = Scripted(depth=5)
    fake.serve('a', 'b', 'c', 'd', 'e')
    assert fake.script.prompts == ['a', 'b', 'c', 'd', 'e']
    assert fake.recorder.all('response') == [SAID] * 5
    assert fake.recorder.all('state') == ['reading', 'answering'] * 5 + ['idle']


def test_server_is_idle_once_it_serves():
    fake = Scripted()
    assert fake.server.state == 'loading'
    assert fake.serve() == [('state', 'idle')]
    assert fake.serve() == [('state', 'idle')]


def test_prompt_beyond_the_depth_is_refused_and_the_others_are_answered():
    fake = Scripted(depth=2)
    fake.serve('a', 'b', 'c')
    assert fake.script.prompts == ['a', 'b']
    assert [error for error in fake.recorder.all('error')] == [
        "the prompt 'c' was refused: 2 prompts are waiting already; send it again when an answer "
        'has come, or raise queue_depth']


def test_prompt_and_request_that_can_never_fit_are_refused_where_they_are_submitted():
    fake, long = Scripted(depth=1), 'a' * (LONGEST + 1)
    fake.server.submit(long)
    fake.server.submit_request(request(long))
    assert fake.server.waiting == 0
    assert fake.recorder.record == [('refused', beginning(long), 'it is too long; shorten it')]
    assert fake.told() == [('error', 'too_long')]
    assert fake.server.statistics.refused == 2


def test_refused_prompt_is_recorded_with_its_beginning():
    assert beginning('a' * LONGEST_RECORD) == 'a' * LONGEST_RECORD
    assert beginning('a' * (LONGEST_RECORD + 1)) == (
        'a' * LONGEST_RECORD + f'… ({LONGEST_RECORD + 1} characters)')
    fake = Scripted(depth=1)
    fake.serve('a' * LONGEST, 'b' * LONGEST)
    assert [text for kind, text, *_ in fake.recorder.record] == [
        beginning('b' * LONGEST), 'a' * LONGEST, SAID]


def test_waiting_counts_the_queue():
    fake = Scripted()
    fake.server.submit('a')
    fake.server.submit('b')
    assert fake.server.waiting == 2
    fake.serve()
    assert fake.server.waiting == 0


def test_refused_prompt_has_an_error_and_no_response():
    fake = Scripted(a=[PromptError('it is empty, or not valid UTF-8; send a text')])
    fake.serve('a', 'b')
    assert fake.recorder.all('error') == [
        "the prompt 'a' was refused: it is empty, or not valid UTF-8; send a text"]
    assert fake.recorder.all('response') == [SAID]
    assert fake.recorder.all('state')[-1] == 'idle'


def test_long_prompt_is_quoted_in_part():
    fake = Scripted(**{'a' * 50: [PromptError('it is too long')]})
    fake.serve('a' * 50)
    assert fake.recorder.all('error') == [f"the prompt '{'a' * 40}…' was refused: it is too long"]


@pytest.mark.parametrize(('error', 'told'), [
    (BackendError('the device is gone'), 'the device is gone'),
    (ValueError('oh'), r"ValueError('oh')")], ids=['ours', 'not_ours'])
def test_failed_answer_has_an_error_and_what_was_said(error, told):
    fake = Scripted(a=[*READ, *PIECES[:2], error])
    fake.serve('a')
    assert fake.recorder.all('error') == [f"the answer to 'a' failed: {told}"]
    assert fake.recorder.all('response') == ['I am one. You']
    assert fake.server.state == 'error'


def test_answer_after_a_failure_is_whole():
    fake = Scripted(a=[BackendError('the device is gone')])
    fake.serve('a', 'b')
    assert fake.recorder.all('response') == ['', SAID]
    assert fake.recorder.all('state') == ['error', 'reading', 'answering', 'idle']


def test_reset_in_an_answer_is_announced_once_and_leaves_no_seam():
    fake = Scripted(a=[*READ, PIECES[0], CacheReset(), *READ, *PIECES[1:], ANSWER])
    fake.serve('a')
    assert fake.recorder.all('reset') == ['full']
    assert fake.recorder.all('response') == [SAID]
    assert fake.recorder.all('state') == ['reading', 'answering', 'idle']
    assert fake.server.statistics.resets == {'full': 1}


def test_recovery_in_an_answer_is_announced_once_and_leaves_no_seam():
    fake = Scripted(a=[*READ, PIECES[0], CacheReset('recovered'), *READ, *PIECES[1:], ANSWER])
    fake.serve('a')
    assert fake.recorder.all('reset') == ['recovered']
    assert fake.recorder.all('response') == [SAID]
    assert fake.recorder.all('state') == ['reading', 'answering', 'idle']
    assert fake.server.statistics.resets == {'recovered': 1}


def test_cancel_while_answering_stops_before_the_next_event():
    fake = Scripted(a=[*READ, PIECES[0], lambda: fake.server.cancel(), PIECES[1],
                        AssertionError('one pass too many')])
    fake.serve('a', 'b')
    assert fake.recorder.all('response') == ['I am one. You', SAID]
    assert fake.recorder.all('error') == []
    assert fake.script.ended == ['a', 'b']


def test_cancel_while_reading_gives_an_empty_response():
    fake = Scripted(a=[lambda: fake.server.cancel(), READ[0], AssertionError('a pass too many')])
    fake.serve('a')
    assert fake.recorder.all('response') == ['']
    assert fake.recorder.all('state') == ['reading', 'idle']


def test_cancelled_answer_does_not_speak_its_half_sentence():
    fake = Scripted(a=[*PIECES[:2], lambda: fake.server.cancel(), PIECES[2]])
    fake.serve('a')
    assert fake.recorder.all('sentence') == ['I am one.']


def test_cancel_says_whether_there_was_an_answer_to_stop():
    said = []
    fake = Scripted(a=[lambda: said.append(fake.server.cancel()), *READ])
    said.append(fake.server.cancel())
    fake.serve('a')
    said.append(fake.server.cancel())
    assert [ended is not None for ended in said] == [False, True, False]


def test_reset_clears_the_conversation_and_keeps_the_queue():
    fake = Scripted()
    fake.serve()
    fake.server.submit('a')
    done = fake.server.reset()
    assert not done.is_set()
    fake.serve()
    assert done.is_set()
    assert fake.script.reset_to == ['Be brief.']
    assert fake.recorder.received[:3] == [('state', 'idle'), ('reset', 'requested'),
                                        ('state', 'reading')]
    assert fake.recorder.all('response') == [SAID]


def test_reset_cancels_the_answer_under_way():
    fake = Scripted(a=[PIECES[0], lambda: fake.server.reset(), PIECES[1],
                        AssertionError('one pass too many')])
    fake.serve('a', 'b')
    assert fake.recorder.all('response') == ['I am one. You', SAID]
    end = fake.recorder.received.index(('response', 'I am one. You'))
    assert fake.recorder.received[end + 1:end + 3] == [('interrupted', ''), ('reset', 'requested')]


def test_reset_ends_a_failure():
    fake = Scripted(a=[BackendError('the device is gone')])
    fake.serve('a')
    fake.server.reset()
    fake.serve()
    assert fake.server.state == 'idle'
    assert fake.script.recovered == [None]


def test_reset_that_cannot_load_the_model_again_stays_an_error_and_the_next_tries_again():
    fake = Scripted(a=[BackendError('the device is gone')])
    fake.serve('a')
    fake.script.recover_error = BackendError('no such device')
    done = fake.server.reset()
    fake.serve()
    assert done.is_set()
    assert fake.recorder.all('error')[-1] == 'the model could not be loaded again: no such device'
    assert fake.server.state == 'error'
    fake.script.recover_error = None
    fake.server.reset()
    fake.serve()
    assert fake.server.state == 'idle'


def test_reset_at_the_close_loads_nothing():
    fake = Scripted()
    fake.server.reset()
    fake.server.close()
    assert fake.script.recovered == []


def test_reset_that_cannot_keep_the_system_prompt_ends_all_the_same():
    fake = Scripted()

    def fail(system_prompt: str) -> None:
        raise ModelError('the template takes none')

    fake.script.reset = fail
    done = fake.server.reset()
    fake.serve('a')
    assert done.is_set()
    assert fake.recorder.all('error') == [
        'the system prompt cannot be used: the template takes none']
    assert fake.recorder.all('response') == [SAID]


def test_close_answers_what_waits_with_nothing():
    fake = Scripted()
    fake.server.submit('a')
    fake.server.submit('b')
    fake.server.close()
    assert fake.recorder.all('response') == ['', '']
    assert fake.recorder.all('error') == [
        f"the prompt '{prompt}' was not answered: the node is stopping; send it again"
        for prompt in 'ab']
    assert fake.server.waiting == 0


def test_close_cuts_the_answer_under_way_short_and_waits_for_it():
    begun, closing = Event(), Event()
    fake = Scripted(a=[*READ, PIECES[0], begun.set, closing.wait, PIECES[1], *PIECES * 1000])
    cut = fake.server._cut
    fake.server._cut = lambda end: (cut(end), closing.set())
    fake.server.submit('a')
    fake.server.submit('b')
    worker = Thread(target=fake.server.serve)
    worker.start()
    assert begun.wait(10)
    fake.server.close()
    assert fake.recorder.all('response') == ['I am one. You', '']
    worker.join(10)
    assert fake.script.prompts == ['a']


def test_answer_that_a_close_cuts_short_says_that_the_node_stops():
    fake = Scripted()
    fake.script._answers['a'] = [*READ, PIECES[0], lambda: fake.server._cut(STOPPED), *PIECES]
    fake.serve('a', request())
    assert fake.recorder.record[1:] == [('stopped', 'I am one.I am one.', STOPPED.why)]
    assert fake.told()[-1] == ('error', 'stopping')


def test_abandoned_server_tells_every_end_once_and_does_not_wait_for_the_model():
    begun, hold = Event(), Event()
    fake = Scripted(a=[*READ, PIECES[0], begun.set, hold.wait, PIECES[1], ANSWER])
    fake.server.submit('a')
    worker = Thread(target=fake.server.serve)
    worker.start()
    assert begun.wait(10)
    fake.server.submit_request(request('b'))
    fake.server.submit('c')
    fake.server.abandon()
    told, tokens = list(fake.recorder.record), fake.recorder.all('token')
    assert told == [('asked', 'a'), ('stopped', 'I am one.', STOPPED.why),
                    ('dropped', 'c', STOPPED.why)]
    assert fake.told() == [('accepted', ''), ('error', 'stopping')]
    hold.set()
    worker.join(10)
    assert fake.recorder.record == told
    assert fake.recorder.all('token') == tokens


def test_close_may_come_twice_and_serving_go_on():
    fake = Scripted()
    fake.server.close()
    fake.server.close()
    fake.server.start()
    fake.serve('a')
    assert fake.recorder.all('response') == [SAID]


def test_closed_server_refuses_prompts_and_is_silent():
    fake = Scripted()
    fake.server.close()
    assert fake.serve('late') == [
        ('error', "the prompt 'late' was refused: the node is stopping; send it again when "
         'it is idle')]


def test_reset_that_waits_at_the_close_is_done():
    fake = Scripted()
    done = fake.server.reset()
    fake.server.close()
    assert done.is_set()


def test_reset_after_the_close_is_not_waited_for_in_vain():
    fake = Scripted()
    fake.server.close()
    assert fake.server.reset().is_set()


def test_reset_that_fails_in_an_unforeseen_way_ends_all_the_same():
    fake = Scripted()
    fake.script.reset = lambda system_prompt: 1 / 0
    done = fake.server.reset()
    with pytest.raises(ZeroDivisionError):
        fake.server.serve()
    assert done.is_set()


def test_failing_listener_does_not_leave_a_finished_answer_to_cancel():
    fake = Scripted()
    fake.recorder.then = lambda notice: (
        1 / 0 if isinstance(notice, TurnNotice) and notice.kind == 'answered' else None)
    with pytest.raises(ZeroDivisionError):
        fake.serve('a')
    assert not fake.server.cancel()


def test_record_has_every_turn_and_reset_in_order():
    fake = Scripted(depth=4, long=[PromptError('it is too long')], broken=[BackendError('gone')],
                     cut=[PIECES[0], lambda: fake.server.cancel(), PIECES[1]],
                     full=[*READ, CacheReset(), *PIECES, ANSWER])
    fake.serve('long', 'broken', 'cut', 'full', 'beyond')
    fake.server.reset()
    fake.serve()
    fake.server.submit('late')
    fake.server.close()
    assert fake.recorder.record == [
        ('refused', 'beyond', '4 prompts are waiting already; send it again when an answer has '
         'come, or raise queue_depth'),
        ('asked', 'long'), ('refused', 'long', 'it is too long'),
        ('asked', 'broken'), ('failed', '', 'gone'), ('asked', 'cut'),
        ('stopped', 'I am one. You'), ('asked', 'full'), ('reset', 'full'),
        ('answered', SAID), ('reset', 'requested'),
        ('dropped', 'late', 'the node is stopping; send it again')]


def test_statistics_count_what_happened():
    fake = Scripted(depth=5, bad=[PromptError('no')], broken=[BackendError('gone')],
                  cut=[lambda: fake.server.cancel(), *PIECES])
    fake.serve('a', 'b', 'bad', 'broken', 'cut')
    found = fake.server.statistics
    assert (found.answers, found.cancelled, found.refused, found.failed) == (3, 1, 1, 1)
    assert (found.prefill_tokens, found.generated_tokens) == (10, 8)
    assert found.last == ANSWER
    assert found.last.tokens_per_second == 2.0


def test_options_are_asked_for_each_turn():
    fake = Scripted()
    wanted = iter([ChatOptions('one'), ChatOptions('two')])
    fake.server = Server(fake.script, fake.recorder.tell, options=lambda: next(wanted), depth=3)
    fake.serve('a', 'b')
    assert [each.system_prompt for each in fake.script.options] == ['one', 'two']


def test_request_is_told_from_its_acceptance_to_its_end():
    fake = Scripted()
    fake.serve(request())
    assert fake.recorder.completions == [
        CompletionEvent('one', 'accepted'), CompletionEvent('one', 'token', 'I am one.'),
        CompletionEvent('one', 'token', ' You'), CompletionEvent('one', 'token', ' are two.'),
        CompletionEvent('one', 'done', SAID, finish='stop', prompt_tokens=5, completion_tokens=4)]


def test_request_is_heard_by_nobody_else():
    fake = Scripted(a=[*READ, PIECES[0], CacheReset(), *PIECES[1:], ANSWER])
    assert fake.serve(request()) == [('state', 'reading'), ('state', 'answering'),
                                      ('state', 'idle')]
    assert fake.recorder.record == []
    assert ('reset', 'full') in fake.told()


def test_requests_and_prompts_are_answered_in_order():
    fake = Scripted(depth=4)
    fake.serve('a', request('b'), 'c', request('d', 'two'))
    assert fake.script.prompts == ['a', 'b', 'c', 'd']
    assert fake.recorder.all('response') == [SAID] * 2


def test_request_beyond_the_depth_is_busy():
    fake = Scripted(depth=1)
    fake.serve('a', request('b'))
    assert fake.told() == [('error', 'busy')]
    assert fake.script.prompts == ['a']


def test_request_says_how_it_is_answered():
    fake = Scripted()
    fake.server = Server(fake.script, fake.recorder.tell, depth=3, options=lambda: ChatOptions(
        'Be brief.', 100, sampling=SamplingOptions(0.2, 5, 0.9)))
    fake.serve(request(temperature=0.5, seed=7, max_tokens=9, stop=('x',)))
    options, = fake.script.options
    assert options.sampling == SamplingOptions(0.5, 5, 0.9, seed=7)
    assert (options.system_prompt, options.max_tokens, options.stop) == ('', 9, ('x',))


@pytest.mark.parametrize(('wanted', 'allowed', 'found'), [
    (None, 5, 5), (9, 5, 5), (3, 5, 3), (9, 0, 9), (None, 0, 0)])
def test_answer_to_a_request_is_no_longer_than_the_node_allows(wanted, allowed, found):
    fake = Scripted()
    fake.server = Server(fake.script, fake.recorder.tell, depth=3,
                          options=lambda: ChatOptions(max_tokens=allowed))
    fake.serve(request(max_tokens=wanted))
    assert fake.script.options[0].max_tokens == found


@pytest.mark.parametrize(('error', 'code'), [
    (LengthError('it is too long'), 'too_long'), (PromptError('no system'), 'invalid_request')])
def test_refused_request_leaves_the_node_as_it_is(error, code):
    fake = Scripted(a=[error])
    fake.serve(request(), request('b', 'two'))
    assert fake.told()[1:] == [('error', code)]
    assert fake.told('two')[-1] == ('done', SAID)
    assert fake.recorder.all('error') == []
    assert fake.server.statistics.refused == 1


@pytest.mark.parametrize('error', [BackendError('the device is gone'), ValueError('oh')])
def test_request_that_fails_is_an_error_of_the_node(error):
    fake = Scripted(a=[*READ, PIECES[0], error])
    fake.serve(request())
    assert fake.told()[1:] == [('token', 'I am one.'), ('error', 'failed')]
    assert str(error) in fake.recorder.all('error')[0]
    assert fake.recorder.all('response') == []
    assert (fake.server.state, fake.server.statistics.failed) == ('error', 1)


@pytest.mark.parametrize('stop', [
    lambda server: server.cancel_request('one'), lambda server: server.cancel(),
    lambda server: server.reset()], ids=['its own cancel', 'cancel', 'reset'])
def test_cancelled_request_ends_before_the_next_pass(stop):
    fake = Scripted(a=[*READ, PIECES[0], lambda: stop(fake.server), PIECES[1],
                        AssertionError('one pass too many')])
    fake.serve(request())
    assert fake.told()[-2:] == [('token', ' You'), ('error', 'cancelled')]
    assert fake.script.ended == ['a']
    assert fake.server.statistics.cancelled == 1


def test_cancel_of_one_request_leaves_the_others():
    fake = Scripted(depth=4, a=[lambda: fake.server.cancel_request('two'), *PIECES, ANSWER])
    fake.serve(request(), request('b', 'two'), request('c', 'three'), 'd')
    assert fake.script.prompts == ['a', 'c', 'd']
    assert fake.told('two') == [('accepted', ''), ('error', 'cancelled')]
    assert [fake.told(name)[-1] for name in ('one', 'three')] == [('done', SAID)] * 2


def test_cancel_that_overtakes_its_request_counts():
    fake = Scripted()
    fake.server.cancel_request('one')
    fake.serve(request(), request('b', 'two'))
    assert fake.told() == [('error', 'cancelled')]
    assert fake.script.prompts == ['b']


def test_cancel_that_overtakes_its_request_counts_once():
    fake = Scripted()
    fake.server.cancel_request('one')
    fake.serve(request(), request())
    assert fake.told() == [('error', 'cancelled'), ('accepted', ''), *(
        ('token', delta.text) for delta in PIECES if delta.text), ('done', SAID)]


@pytest.mark.parametrize('ended', [request(), request('bad'), request('a' * (LONGEST + 1))],
                         ids=['answered', 'refused', 'refused unread'])
def test_cancel_that_comes_after_the_end_leaves_the_next_request_of_that_id(ended):
    fake = Scripted(bad=[PromptError('no')])
    fake.serve(ended)
    fake.server.cancel_request('one')
    fake.serve(request('b'))
    assert fake.told()[-1] == ('done', SAID)


def test_cancel_of_what_is_no_id_is_not_remembered():
    fake = Scripted()
    fake.server.cancel_request('id0')
    for number in range(EARLY_CANCELS):
        fake.server.cancel_request(f'{number}' * 1000)
    fake.serve(request('a', 'id0'))
    assert fake.told('id0') == [('error', 'cancelled')]


@pytest.mark.parametrize('submit', [lambda server: server.submit('a'),
                                    lambda server: server.submit_request(request())],
                         ids=['prompt', 'request'])
def test_token_of_a_long_answer_copies_nothing_of_the_answer_before_it(submit):
    lengths = []
    words = [TextDelta(f' w{number}') for number in range(1000)]
    answer = Answer(''.join(word.text for word in words), 'stop', 0, 5, 4, 1, 1)
    fake = Scripted(a=[*words, answer])
    fake.recorder.then = lambda notice: lengths.append(
        longest_text(fake.server._running.job) if fake.server._running else 0)
    submit(fake.server)
    fake.server.serve()
    assert len(lengths) > 1000 and max(lengths) < 10


def test_only_so_many_cancels_are_remembered():
    fake = Scripted()
    for number in range(EARLY_CANCELS + 1):
        fake.server.cancel_request(f'id{number}')
    fake.serve(request('a', 'id0'), request('b', 'id1'))
    assert fake.script.prompts == ['a']


def test_cancel_of_an_answered_request_stops_nothing():
    fake = Scripted(b=[lambda: fake.server.cancel_request('one'), *PIECES, ANSWER])
    fake.serve(request(), 'b')
    assert fake.recorder.all('response') == [SAID]


def test_close_tells_the_requests_that_wait():
    fake = Scripted()
    fake.server.submit_request(request())
    fake.server.close()
    fake.server.submit_request(request('b', 'two'))
    assert fake.told() == [('accepted', ''), ('error', 'stopping')]
    assert fake.told('two') == [('error', 'stopping')]
    assert fake.recorder.all('response') == []


def test_requests_are_counted_apart():
    fake = Scripted()
    fake.serve(request(), 'b')
    assert (fake.server.statistics.answers, fake.server.statistics.completions) == (1, 1)


def test_request_that_is_refused_for_a_full_queue_counts_as_a_prompt_does():
    fake = Scripted(depth=1)
    fake.serve('a', request('b'), 'c')
    assert fake.server.statistics.refused == 2


def test_request_that_is_cancelled_while_it_waits_counts_as_cancelled():
    fake = Scripted()
    fake.server.submit_request(request())
    fake.server.cancel_request('one')
    fake.server.cancel_request('two')
    fake.serve(request('b', 'two'))
    assert fake.server.statistics.cancelled == 2
    assert fake.script.prompts == []


def test_request_that_could_not_be_read_is_told_and_counted():
    fake = Scripted()
    fake.server.refuse_request('one', RequestError('messages must be a list', 'messages'))
    event, = fake.recorder.completions
    assert (event.code, event.param) == ('invalid_request', 'messages')
    assert fake.server.statistics.refused == 1


def test_prompts_and_requests_that_a_closed_server_drops_count_as_failed():
    fake = Scripted()
    fake.server.submit('a')
    fake.server.submit_request(request())
    fake.server.close()
    assert fake.server.statistics.failed == 2


@pytest.mark.parametrize('kind', ['accepted', 'token', 'done', 'error'])
def test_listener_may_submit_and_cancel_from_within_a_notice_of_a_request(kind):
    fake = Scripted(depth=2)
    called = []

    def call_back(notice: Notice) -> None:
        if isinstance(notice, CompletionEvent) and notice.kind == kind and not called:
            called.append(kind)
            fake.server.submit('from within')
            fake.server.cancel_request('another')
    fake.recorder.then = call_back
    fake.server.submit_request(request())
    if kind == 'error':
        fake.server.cancel_request('one')
    finished = Thread(target=fake.server.serve, daemon=True)
    finished.start()
    finished.join(10)
    assert not finished.is_alive()
    assert 'from within' in fake.script.prompts


def test_listener_may_submit_from_within_a_refusal():
    fake = Scripted(depth=1)
    fake.recorder.then = lambda notice: (
        fake.server.submit('b') if isinstance(notice, TurnNotice) and notice.kind == 'refused'
        and notice.text == 'too many' else None)
    finished = Thread(target=lambda: fake.serve('a', 'too many'), daemon=True)
    finished.start()
    finished.join(10)
    assert not finished.is_alive()
    assert [kind for kind, *_ in fake.recorder.record] == [
        'refused', 'refused', 'asked', 'answered']


def test_submitted_prompt_is_answered_without_a_further_call():
    fake, answered = Scripted(), Event()
    fake.recorder.then = lambda notice: (
        answered.set() if isinstance(notice, TurnNotice) and notice.kind == 'answered' else None)
    fake.server.start()
    fake.server.submit('a')
    assert answered.wait(10)
    done = fake.server.reset()
    assert done.wait(10)
    fake.server.close()
    assert fake.recorder.all('response') == [SAID]


def test_notices_of_a_turn_bear_its_number_and_each_turn_ends_once():
    fake = Scripted(depth=4, bad=[PromptError('no')])
    fake.serve('a', 'bad')
    fake.server.submit('late')
    fake.server.close()
    ends = ('answered', 'stopped', 'failed', 'refused', 'dropped')
    assert [each for each in fake.recorder.turns if each[1] in ends] == [
        (1, 'answered'), (2, 'refused'), (3, 'dropped')]
    assert {turn for turn, _ in fake.recorder.turns} == {1, 2, 3}


def test_cancel_during_a_rendering_that_is_given_up_is_a_stop_and_no_refusal():
    fake = Scripted(a=[lambda: fake.server.cancel(), PromptError('the template takes too long')])
    fake.serve('a')
    assert [kind for kind, *_ in fake.recorder.record] == ['asked', 'stopped']
    assert fake.recorder.all('error') == []


def test_answer_that_yields_nothing_after_a_cancel_is_a_stop():
    fake = Scripted(a=[lambda: fake.server.cancel()])
    fake.serve('a')
    assert fake.recorder.all('response') == ['']
    assert fake.server.statistics.cancelled == 1


def test_server_keeps_nothing_of_prompts_that_are_answered():
    fake = Scripted()

    def objects_after(prompts: int) -> int:
        for _ in range(prompts):
            fake.serve('a')
            fake.recorder.received.clear()
            fake.recorder.record.clear()
            fake.recorder.turns.clear()
            for kept in (fake.script.prompts, fake.script.options, fake.script.ended):
                kept.clear()
        gc.collect()
        return len(gc.get_objects())
    before = objects_after(20)
    assert abs(objects_after(500) - before) < 100
