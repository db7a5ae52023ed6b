"""The server answers what it accepted, in order, and tells its listener all of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event as Flag, Thread

import pytest

from tinyllama_ros.chat.conversation import Answer, ChatOptions, Event, Piece, Reading, Reset
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.errors import BackendError, ModelError, PromptError

SAID = 'I am one. You are two.'
READ = [Reading(0), Reading(5)]
PIECES = [Piece('I am one.'), Piece(' You'), Piece(''), Piece(' are two.')]
ANSWER = Answer(SAID, 'stop', 0, 5, 4, 0.5, 2.0)


class Script:
    """
    A conversation in which everything was decided beforehand.

    A step is an event, an error to raise, or something to do between two events.
    """

    def __init__(self, **answers: list[Event | Exception | Callable[[], object]]) -> None:
        self._answers = answers
        self.prompts: list[str] = []
        self.options: list[ChatOptions] = []
        self.ended: list[str] = []
        self.reset_to: list[str] = []

    def answer(self, prompt: str, options: ChatOptions) -> Iterator[Event]:
        self.prompts.append(prompt)
        self.options.append(options)
        try:
            for step in self._answers.get(prompt, [*READ, *PIECES, ANSWER]):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, (Reading, Piece, Reset, Answer)):
                    yield step
                else:
                    step()
        finally:
            self.ended.append(prompt)

    def reset(self, system_prompt: str) -> None:
        self.reset_to.append(system_prompt)


@dataclass
class Ear:
    """A listener that writes everything down."""

    heard: list[tuple[str, str]] = field(default_factory=list)
    record: list[tuple[str, ...]] = field(default_factory=list)

    def on_state(self, state: str) -> None:
        self.heard.append(('state', state))

    def on_token(self, text: str) -> None:
        self.heard.append(('token', text))

    def on_sentence(self, text: str) -> None:
        self.heard.append(('sentence', text))

    def on_response(self, text: str) -> None:
        self.heard.append(('response', text))

    def on_reset(self, reason: str) -> None:
        self.heard.append(('reset', reason))

    def on_error(self, message: str) -> None:
        self.heard.append(('error', message))

    def on_record(self, kind: str, text: str, why: str = '') -> None:
        self.record.append((kind, text, why) if why else (kind, text))

    def all(self, kind: str) -> list[str]:
        """Return what was heard of one kind."""
        return [text for each, text in self.heard if each == kind]


class Stage:
    """A server, its script and its listener."""

    def __init__(self, depth: int = 3, **answers: list[Event | Exception | Callable[[], object]]
                 ) -> None:
        self.script, self.ear = Script(**answers), Ear()
        self.server = Server(self.script, self.ear, depth=depth,
                             options=lambda: ChatOptions(system_prompt='Be brief.'))

    def serve(self, *prompts: str) -> list[tuple[str, str]]:
        """Return what is heard while prompts are answered."""
        for prompt in prompts:
            self.server.submit(prompt)
        self.server.serve()
        return self.ear.heard


def test_one_prompt_is_told_from_its_first_token_to_its_last():
    assert Stage().serve('a') == [
        ('state', 'reading'), ('state', 'answering'), ('token', 'I am one.'), ('token', ' You'),
        ('sentence', 'I am one.'), ('token', ' are two.'), ('sentence', 'You are two.'),
        ('response', SAID), ('state', 'idle')]


def test_prompts_are_answered_in_order():
    stage = Stage(depth=5)
    stage.serve('a', 'b', 'c', 'd', 'e')
    assert stage.script.prompts == ['a', 'b', 'c', 'd', 'e']
    assert stage.ear.all('response') == [SAID] * 5
    assert stage.ear.all('state') == ['reading', 'answering'] * 5 + ['idle']


def test_server_is_idle_once_it_serves():
    stage = Stage()
    assert stage.server.state == 'loading'
    assert stage.serve() == [('state', 'idle')]
    assert stage.serve() == [('state', 'idle')]


def test_prompt_beyond_the_depth_is_refused_and_the_others_are_answered():
    stage = Stage(depth=2)
    stage.serve('a', 'b', 'c')
    assert stage.script.prompts == ['a', 'b']
    assert [error for error in stage.ear.all('error')] == [
        "the prompt 'c' was refused: 2 prompts are waiting already; send it again when an answer "
        'has come, or raise queue_depth']


def test_waiting_counts_the_queue():
    stage = Stage()
    stage.server.submit('a')
    stage.server.submit('b')
    assert stage.server.waiting == 2
    stage.serve()
    assert stage.server.waiting == 0


def test_refused_prompt_has_an_error_and_no_response():
    stage = Stage(a=[PromptError('it is blank, or no text in UTF-8; say something')])
    stage.serve('a', 'b')
    assert stage.ear.all('error') == [
        "the prompt 'a' was refused: it is blank, or no text in UTF-8; say something"]
    assert stage.ear.all('response') == [SAID]
    assert stage.ear.all('state')[-1] == 'idle'


def test_long_prompt_is_quoted_in_part():
    stage = Stage(**{'a' * 50: [PromptError('it is too long')]})
    stage.serve('a' * 50)
    assert stage.ear.all('error') == [f"the prompt '{'a' * 40}…' was refused: it is too long"]


@pytest.mark.parametrize(('error', 'told'), [
    (BackendError('the device is gone'), 'the device is gone'),
    (ValueError('oh'), r"ValueError('oh')")], ids=['ours', 'not_ours'])
def test_failed_answer_has_an_error_and_what_was_said(error, told):
    stage = Stage(a=[*READ, *PIECES[:2], error])
    stage.serve('a')
    assert stage.ear.all('error') == [f"the answer to 'a' failed: {told}"]
    assert stage.ear.all('response') == ['I am one. You']
    assert stage.server.state == 'error'


def test_answer_after_a_failure_is_whole():
    stage = Stage(a=[BackendError('the device is gone')])
    stage.serve('a', 'b')
    assert stage.ear.all('response') == ['', SAID]
    assert stage.ear.all('state') == ['error', 'reading', 'answering', 'idle']


def test_reset_in_an_answer_is_announced_once_and_leaves_no_seam():
    stage = Stage(a=[*READ, PIECES[0], Reset(), *READ, *PIECES[1:], ANSWER])
    stage.serve('a')
    assert stage.ear.all('reset') == ['full']
    assert stage.ear.all('response') == [SAID]
    assert stage.ear.all('state') == ['reading', 'answering', 'idle']
    assert stage.server.statistics.resets == {'full': 1}


def test_cancel_while_answering_stops_before_the_next_event():
    stage = Stage(a=[*READ, PIECES[0], lambda: stage.server.cancel(), PIECES[1],
                     AssertionError('one pass too many')])
    stage.serve('a', 'b')
    assert stage.ear.all('response') == ['I am one. You', SAID]
    assert stage.ear.all('error') == []
    assert stage.script.ended == ['a', 'b']


def test_cancel_while_reading_gives_an_empty_response():
    stage = Stage(a=[lambda: stage.server.cancel(), READ[0], AssertionError('a pass too many')])
    stage.serve('a')
    assert stage.ear.all('response') == ['']
    assert stage.ear.all('state') == ['reading', 'idle']


def test_cancelled_answer_does_not_speak_its_half_sentence():
    stage = Stage(a=[*PIECES[:2], lambda: stage.server.cancel(), PIECES[2]])
    stage.serve('a')
    assert stage.ear.all('sentence') == ['I am one.']


def test_cancel_says_whether_there_was_an_answer_to_stop():
    said = []
    stage = Stage(a=[lambda: said.append(stage.server.cancel()), *READ])
    said.append(stage.server.cancel())
    stage.serve('a')
    said.append(stage.server.cancel())
    assert said == [False, True, False]


def test_reset_clears_the_conversation_and_keeps_the_queue():
    stage = Stage()
    stage.serve()
    stage.server.submit('a')
    done = stage.server.reset()
    assert not done.is_set()
    stage.serve()
    assert done.is_set()
    assert stage.script.reset_to == ['Be brief.']
    assert stage.ear.heard[:3] == [('state', 'idle'), ('reset', 'requested'), ('state', 'reading')]
    assert stage.ear.all('response') == [SAID]


def test_reset_cancels_the_answer_under_way():
    stage = Stage(a=[PIECES[0], lambda: stage.server.reset(), PIECES[1],
                     AssertionError('one pass too many')])
    stage.serve('a', 'b')
    assert stage.ear.all('response') == ['I am one. You', SAID]
    assert stage.ear.heard.index(('reset', 'requested')) == stage.ear.heard.index(
        ('response', 'I am one. You')) + 1


def test_reset_ends_a_failure():
    stage = Stage(a=[BackendError('the device is gone')])
    stage.serve('a')
    stage.server.reset()
    stage.serve()
    assert stage.server.state == 'idle'


def test_reset_that_cannot_keep_the_system_prompt_ends_all_the_same():
    stage = Stage()

    def fail(system_prompt: str) -> None:
        raise ModelError('the template takes none')

    stage.script.reset = fail
    done = stage.server.reset()
    stage.serve('a')
    assert done.is_set()
    assert stage.ear.all('error') == [
        'the system prompt cannot be used: the template takes none']
    assert stage.ear.all('response') == [SAID]


def test_close_answers_what_waits_with_nothing():
    stage = Stage()
    stage.server.submit('a')
    stage.server.submit('b')
    stage.server.close()
    assert stage.ear.all('response') == ['', '']
    assert stage.ear.all('error') == [
        f"the prompt '{prompt}' was not answered: the node is stopping; send it again"
        for prompt in 'ab']
    assert stage.server.waiting == 0


def test_close_cuts_the_answer_under_way_short_and_waits_for_it():
    begun, closing = Flag(), Flag()
    stage = Stage(a=[*READ, PIECES[0], begun.set, closing.wait, PIECES[1], *PIECES * 1000])
    cancel = stage.server.cancel
    stage.server.cancel = lambda: (cancel(), closing.set())
    stage.server.submit('a')
    stage.server.submit('b')
    worker = Thread(target=stage.server.serve)
    worker.start()
    assert begun.wait(10)
    stage.server.close()
    assert stage.ear.all('response') == ['I am one. You', '']
    worker.join(10)
    assert stage.script.prompts == ['a']


def test_close_may_come_twice_and_serving_go_on():
    stage = Stage()
    stage.server.close()
    stage.server.close()
    stage.server.open()
    stage.serve('a')
    assert stage.ear.all('response') == [SAID]


def test_closed_server_refuses_prompts_and_is_silent():
    stage = Stage()
    stage.server.close()
    assert stage.serve('late') == [
        ('error', "the prompt 'late' was refused: the node is stopping; send it again when "
         '~/state is idle')]


def test_reset_that_waits_at_the_close_is_done():
    stage = Stage()
    done = stage.server.reset()
    stage.server.close()
    assert done.is_set()


def test_failing_listener_does_not_leave_a_finished_answer_to_cancel():
    stage = Stage()
    stage.ear.on_response = lambda text: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stage.serve('a')
    assert not stage.server.cancel()


def test_record_has_every_turn_and_reset_in_order():
    stage = Stage(depth=4, long=[PromptError('it is too long')], broken=[BackendError('gone')],
                  cut=[PIECES[0], lambda: stage.server.cancel(), PIECES[1]],
                  full=[*READ, Reset(), *PIECES, ANSWER])
    stage.serve('long', 'broken', 'cut', 'full', 'beyond')
    stage.server.reset()
    stage.serve()
    stage.server.submit('late')
    stage.server.close()
    assert stage.ear.record == [
        ('refused', 'beyond', '4 prompts are waiting already; send it again when an answer has '
         'come, or raise queue_depth'),
        ('asked', 'long'), ('refused', 'long', 'it is too long'),
        ('asked', 'broken'), ('failed', '', 'gone'), ('asked', 'cut'),
        ('stopped', 'I am one. You'), ('asked', 'full'), ('reset', 'full'),
        ('answered', SAID), ('reset', 'requested'),
        ('dropped', 'late', 'the node is stopping; send it again')]


def test_statistics_count_what_happened():
    stage = Stage(depth=5, bad=[PromptError('no')], broken=[BackendError('gone')],
                  cut=[lambda: stage.server.cancel(), *PIECES])
    stage.serve('a', 'b', 'bad', 'broken', 'cut')
    found = stage.server.statistics
    assert (found.answers, found.cancelled, found.refused, found.failed) == (3, 1, 1, 1)
    assert (found.tokens_read, found.tokens_drawn) == (10, 8)
    assert found.last == ANSWER
    assert found.last.tokens_per_second == 2.0


def test_options_are_asked_for_each_turn():
    stage = Stage()
    wanted = iter([ChatOptions('one'), ChatOptions('two')])
    stage.server = Server(stage.script, stage.ear, options=lambda: next(wanted), depth=3)
    stage.serve('a', 'b')
    assert [each.system_prompt for each in stage.script.options] == ['one', 'two']
