"""A new prompt waits, replaces, interrupts or is refused, as configured; speech counts as well."""

from threading import Thread

import pytest
from support.scripted_server import ANSWER, LONGEST, PIECES, READ, request, Scripted

from tinyllama_ros.chat.interruption import InterruptionOptions, SPEAKING_EXPIRES_S, Speech
from tinyllama_ros.errors import ConfigError


class Busy(Scripted):
    """A server that answers `first` when the test begins; `submit` comes after its first text."""

    def __init__(self, when_busy, submit, **options):
        super().__init__(first=[*READ, PIECES[0], self.do, *PIECES[1:], ANSWER], **options)
        self.interruption = InterruptionOptions(when_busy=when_busy)
        self._submit = submit
        self.serve('first')

    def do(self):
        self._submit(self.server)

    def kinds(self):
        """Return how prompts began and ended, in order."""
        return [(kind, text) for kind, text, *_ in self.recorder.record]


def submits(*prompts):
    def submit(server):
        for prompt in prompts:
            server.submit(prompt)
    return submit


def test_prompts_wait_by_default():
    assert [kind for kind, _ in Busy('queue', submits('b', 'c')).kinds()] == [
        'asked', 'answered', 'asked', 'answered', 'asked', 'answered']


def test_latest_prompt_takes_the_place_of_those_that_wait():
    busy = Busy('latest', submits('b', 'c', 'd'))
    assert busy.script.prompts == ['first', 'd']
    assert [text for kind, text in busy.kinds() if kind == 'refused'] == ['b', 'c']
    assert "the prompt 'b' was refused: a newer prompt took its place" in (
        busy.recorder.all('error')[0])


def test_latest_prompt_finds_room_in_a_queue_that_is_full_of_prompts():
    assert Busy('latest', submits(*'bcdef'), depth=1).script.prompts == ['first', 'f']


def test_requests_are_neither_replaced_nor_interrupted():
    def submit(server):
        server.submit_request(request())
        server.submit('b')
    busy = Busy('latest', submit)
    assert busy.told()[-1][0] == 'done'
    serving = Scripted(a=[*PIECES, lambda: serving.server.submit('b'), ANSWER])
    serving.interruption = InterruptionOptions(when_busy='interrupt')
    serving.serve(request())
    assert serving.told()[-1][0] == 'done'
    assert serving.script.prompts == ['a', 'b']


def test_interrupting_prompt_cuts_the_answer_short_and_comes_next():
    busy = Busy('interrupt', submits('b', 'c'))
    assert busy.kinds() == [('asked', 'first'), ('refused', 'b'), ('stopped', 'I am one. You'),
                            ('asked', 'c'), ('answered', 'I am one. You are two.')]


def test_nothing_of_an_answer_is_told_after_it_is_interrupted():
    busy = Busy('interrupt', submits('b'))
    kinds = [kind for kind, _ in busy.recorder.received]
    before, after = (kinds[:kinds.index('interrupted')], kinds[kinds.index('interrupted'):])
    assert before.count('token') == 2 and before[-1] == 'response'
    assert after.count('token') == 3 and after.count('interrupted') == 1


def test_interruption_during_prefill_stops_before_the_next_pass():
    serving = Scripted(first=[READ[0], lambda: serving.server.submit('b'), READ[1],
                              AssertionError('a pass too many')])
    serving.interruption = InterruptionOptions(when_busy='interrupt')
    serving.serve('first')
    assert serving.recorder.all('response')[0] == ''
    assert serving.script.prompts == ['first', 'b']


def test_busy_node_refuses_where_it_is_so_configured():
    busy = Busy('refuse', submits('b'))
    assert busy.script.prompts == ['first']
    assert busy.kinds()[1] == ('refused', 'b')
    busy.serve('c')
    assert busy.script.prompts == ['first', 'c'], 'an idle node answers'


@pytest.mark.parametrize('prompt', ['', 'a' * (LONGEST + 1)], ids=['empty', 'too long'])
def test_prompt_that_is_refused_interrupts_and_replaces_nothing(prompt):
    busy = Busy('interrupt', submits('b', prompt))
    assert busy.script.prompts == ['first', 'b']
    assert busy.kinds()[-1] == ('answered', 'I am one. You are two.')


@pytest.mark.parametrize('when_busy', ['queue', 'latest', 'interrupt', 'refuse'])
def test_each_of_many_prompts_from_two_threads_gets_one_end(when_busy):
    prompts = [[f'{thread} {number}' for number in range(300)] for thread in range(2)]
    serving = Scripted(depth=5)
    serving.interruption = InterruptionOptions(when_busy=when_busy)
    serving.server.start()
    threads = [Thread(target=submits(*own), args=(serving.server,)) for own in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    serving.server.serve()
    serving.server.close()
    ends = [turn for turn, kind in serving.recorder.turns
            if kind in ('answered', 'stopped', 'refused', 'dropped', 'failed')]
    assert sorted(ends) == list(range(1, 601))


def test_cancel_tells_when_the_last_of_the_answer_was_told():
    ends = []
    serving = Scripted(a=[PIECES[0], lambda: ends.append(serving.server.cancel()),
                          lambda: ends.append(ends[0].is_set()), *PIECES])
    serving.serve('a')
    assert ends[1] is False and ends[0].is_set()
    assert serving.server.cancel() is None


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def speech(clock):
    return Speech(clock)


def test_speech_has_a_tail(speech, clock):
    assert not speech.is_speaking(60)
    speech.set_speaking(True)
    assert speech.is_speaking()
    speech.set_speaking(False)
    assert not speech.is_speaking() and speech.is_speaking(0.5)
    clock.now_s += 0.5
    assert not speech.is_speaking(0.5)


def test_second_end_of_speech_does_not_begin_the_tail_anew(speech, clock):
    speech.set_speaking(True)
    speech.set_speaking(False)
    clock.now_s += 1
    speech.set_speaking(False)
    assert not speech.is_speaking(0.5)


def test_speech_of_a_node_that_died_expires(speech, clock):
    speech.set_speaking(True)
    clock.now_s += SPEAKING_EXPIRES_S - 0.1
    speech.set_speaking(True)
    clock.now_s += SPEAKING_EXPIRES_S - 0.1
    assert speech.is_speaking()
    clock.now_s += 0.2
    assert not speech.is_speaking()


@pytest.mark.parametrize(('when_speaking', 'answered'), [('ignore', ['after']),
                                                         ('answer', ['during', 'after']),
                                                         ('interrupt', ['during', 'after'])])
def test_prompt_during_speech_is_treated_as_configured(when_speaking, answered):
    serving = Scripted()
    serving.interruption = InterruptionOptions(when_speaking=when_speaking, echo_tail_s=0)
    serving.server.speech.set_speaking(True)
    serving.server.submit('during')
    serving.server.speech.set_speaking(False)
    serving.serve('after')
    assert serving.script.prompts == answered
    assert len(serving.recorder.all('interrupted')) == (when_speaking == 'interrupt')
    assert len(serving.recorder.all('error')) == (when_speaking == 'ignore')


def test_cancel_stops_what_is_still_spoken_of_a_whole_answer():
    serving = Scripted()
    serving.serve('a')
    serving.server.speech.set_speaking(True)
    assert serving.server.cancel() is None
    assert serving.recorder.received[-1] == ('interrupted', '')


@pytest.mark.parametrize('interrupt', [
    lambda server: server.cancel(), lambda server: server.submit('b')], ids=['cancel', 'prompt'])
def test_speech_of_an_earlier_answer_is_interrupted_while_a_request_is_answered(interrupt):
    serving = Scripted(a=[*PIECES, lambda: interrupt(serving.server), ANSWER])
    serving.interruption = InterruptionOptions(when_busy='interrupt', when_speaking='answer')
    serving.server.speech.set_speaking(True)
    serving.serve(request())
    assert serving.recorder.all('interrupted') == ['']


def test_speech_is_interrupted_by_a_prompt_that_comes_as_the_answer_has_just_ended():
    serving = Scripted()
    serving.interruption = InterruptionOptions(when_busy='interrupt', when_speaking='answer')

    def submit(notice):
        if getattr(notice, 'kind', '') == 'answered' and notice.turn == 1:
            serving.server.speech.set_speaking(True)
            serving.server.submit('b')

    serving.recorder.then = submit
    serving.serve('a')
    kinds = [kind for kind, _ in serving.recorder.received]
    assert [kind for kind in kinds if kind in ('response', 'interrupted')] == [
        'response', 'interrupted', 'response']
    assert serving.recorder.all('response') == ['I am one. You are two.'] * 2


def test_conversation_keeps_what_was_spoken_of_an_interrupted_answer():
    def speak(server):
        server.speech.set_spoken('I am')
        server.submit('b')
    serving = Scripted(first=[*PIECES[:2], lambda: speak(serving.server), *PIECES, ANSWER])
    serving.interruption = InterruptionOptions(when_busy='interrupt')
    serving.serve('first')
    assert serving.script.kept == ['I am']


@pytest.mark.parametrize('spoken', [None, 'an answer before'])
def test_conversation_keeps_what_was_published_where_no_speech_is_known(spoken):
    def speak(server):
        if spoken:
            server.speech.set_spoken(spoken)
        server.submit('b')
    serving = Scripted(first=[PIECES[0], lambda: speak(serving.server), *PIECES, ANSWER])
    serving.interruption = InterruptionOptions(when_busy='interrupt')
    serving.serve('first')
    assert serving.script.kept == [], 'no sentence was published of which it could be spoken'


def test_whole_answer_is_kept_where_nobody_interrupts_its_speech():
    serving = Scripted()
    serving.serve('a')
    serving.server.speech.set_spoken('I am one.')
    serving.serve('b')
    assert serving.script.kept == []


@pytest.mark.parametrize('name', ['when_busy', 'when_speaking'])
def test_unknown_choice_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{name} is 'wait'; it must be one of .*interrupt"):
        InterruptionOptions(**{name: 'wait'})
