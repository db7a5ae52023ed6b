"""The log of the page: in order, nothing lost, nothing doubled."""

import itertools
import json

from hypothesis import given, strategies as st
import pytest
from support.held_texts import longest_text

from tinyllama_ros.errors import PromptError
from tinyllama_ros.ros.wire import ConversationEvent
from tinyllama_ros.web.log import (
    ConversationLog,
    LONGEST_PROMPT,
    MOST_CHARACTERS,
    MOST_ITEMS,
    MOST_WAITING,
)


class FollowedLog:
    """A log, what it sent to the node, and a page that follows it."""

    def __init__(self, takes=True, run='a'):
        self.takes, self.sent = takes, []
        self.log = ConversationLog(self._send)
        self.page = Page(self.log)
        if run:
            self.begin(run)

    def _send(self, prompt):
        if self.takes:
            self.sent.append(prompt)
        return self.takes

    def begin(self, run):
        self.run, self.seq, self.number = run, 0, 0
        self.line('begun')

    def line(self, kind, text='', why='', turn=None):
        """Have the node publish an event; of the turn that was asked last, unless one is named."""
        self.seq += 1
        self.number += kind == 'asked'
        self.log.receive(ConversationEvent(self.run, self.number if turn is None else turn,
                                           self.seq, 0, kind, text, why))

    def piece(self, text):
        self.line('token', text)

    def lose(self):
        """Have the node publish an event that does not arrive."""
        self.seq += 1

    def turn(self, prompt, answer):
        self.line('asked', prompt)
        self.line('answered', answer)

    @property
    def items(self):
        return self.log.since('', 0)['items']

    def shown(self, *names):
        return [tuple(item[name] for name in names) for item in self.items]


def utf16_length(text):
    """Return the length of a text in JavaScript."""
    return sum(1 + (character > '\uffff') for character in text)


class Page:
    """What a browser holds: items by id, in the order in which they came to their place."""

    def __init__(self, log):
        self.items, self.epoch, self.version = {}, '', 0
        self._log = log
        self.come()

    def come(self):
        """Connect, and catch up."""
        message = self._log.since(self.epoch, self.version)
        if message['is_whole']:
            self.items.clear()
        self.epoch, self.version = message['epoch'], message['version']
        for item in message['items']:
            self.items[item['id']] = dict(item)
        self.go = self._log.listen(self._receive)

    def _receive(self, message):
        if message['type'] == 'item':
            item = message['item']
            self.items[item['id']] = dict(item)
            self.version = item['version']
        else:
            item = self.items[message['id']]
            answer = item['answer'] + message['text']
            assert message['at'] == utf16_length(item['answer'])
            item |= {'answer': answer, 'version': message['version']}
            if 'reset' in message:
                item['resets'] = [*item['resets'], (message['at'], message['reset'])]
            else:
                item |= {'phase': 'answering', 'length': utf16_length(answer)}
            self.version = message['version']


def test_turn_goes_from_waiting_to_answered():
    followed, phases = FollowedLog(), []
    followed.log.listen(lambda message: phases.append(
        message.get('item', {}).get('phase', 'piece')))
    followed.log.submit('hello', 'k')
    followed.line('asked', 'hello')
    followed.piece('Hi')
    followed.piece(' you')
    assert followed.shown('prompt', 'answer', 'phase') == [('hello', 'Hi you', 'answering')]
    followed.line('answered', 'Hi you')
    assert phases == ['waiting', 'reading', 'piece', 'piece', 'answered']
    assert followed.sent == ['hello']


@pytest.mark.parametrize(('kind', 'why'), [('stopped', ''), ('failed', 'the device is gone')])
def test_answer_that_was_cut_short_keeps_what_was_said(kind, why):
    followed = FollowedLog()
    followed.line('asked', 'hello')
    followed.line(kind, 'Hi', why)
    assert followed.shown('answer', 'phase', 'why') == [('Hi', kind, why)]


def test_piece_stands_where_javascript_counts_it():
    followed, places = FollowedLog(), []
    followed.line('asked', 'hello')
    followed.log.listen(lambda message: places.append(message.get('at')))
    followed.piece('a🤖')
    followed.line('reset', 'full')
    followed.piece('b')
    assert places == [0, 3, 3]
    followed.line('answered', 'a🤖b')
    assert followed.items[0]['resets'] == [(3, 'full')]


def test_piece_of_a_long_answer_copies_nothing_of_the_answer_before_it():
    followed, sizes = FollowedLog(), []
    followed.line('asked', 'hello')
    followed.log.listen(lambda message: sizes.append(len(json.dumps(message))))
    for number in range(1000):
        followed.piece(f' w{number}')
        if number % 100 == 0:
            followed.line('reset', 'full')
        assert longest_text(followed.log._turn) < 60
    assert max(sizes) < 200


def test_prompt_that_comes_again_is_taken_once():
    followed = FollowedLog()
    followed.log.submit('hello', 'k')
    followed.log.submit('hello', 'k')
    followed.turn('hello', 'Hi')
    followed.log.submit('hello', 'k')
    assert followed.sent == ['hello']
    assert len(followed.items) == 1


def test_prompt_waits_until_the_node_takes_it():
    followed = FollowedLog(takes=False)
    followed.log.submit('one', '1')
    followed.log.submit('two', '2')
    assert followed.sent == []
    followed.takes = True
    followed.log.send_waiting()
    followed.log.send_waiting()
    assert followed.sent == ['one', 'two']


def test_prompt_is_not_sent_to_a_node_whose_record_is_unknown():
    followed = FollowedLog(run='')
    followed.log.submit('one', '1')
    assert followed.sent == []
    followed.begin('a')
    assert followed.sent == ['one']


def test_another_node_is_sent_what_the_first_did_not_answer():
    followed = FollowedLog()
    for prompt in ('done', 'under way', 'waiting'):
        followed.log.submit(prompt, prompt)
    followed.turn('done', 'yes')
    followed.line('asked', 'under way')
    followed.piece('So')
    followed.sent.clear()
    followed.begin('b')
    assert followed.sent == ['waiting']
    followed.turn('waiting', 'at last')
    assert followed.shown('kind', 'prompt', 'answer', 'phase') == [
        ('turn', 'done', 'yes', 'answered'), ('turn', 'under way', 'So', 'failed'),
        ('restart', '', '', 'answered'), ('turn', 'waiting', 'at last', 'answered')]


def test_prompt_dropped_by_a_node_that_stops_waits_for_the_next():
    followed = FollowedLog()
    followed.log.submit('mine', 'k')
    followed.line('dropped', 'mine', 'the node is stopping')
    followed.line('dropped', "another's", 'the node is stopping')
    assert followed.shown('prompt', 'phase') == [("another's", 'refused'), ('mine', 'waiting')]
    followed.begin('b')
    assert followed.sent == ['mine', 'mine']


def test_what_waits_comes_after_what_is_done():
    followed = FollowedLog()
    followed.log.submit('mine', 'k')
    followed.turn("another's", 'yes')
    followed.line('reset', 'requested')
    assert followed.shown('kind', 'prompt') == [
        ('turn', "another's"), ('reset', ''), ('turn', 'mine')]


def test_refused_prompt_says_why_whether_it_was_asked_or_not():
    followed = FollowedLog()
    followed.line('asked', 'too long')
    followed.line('refused', 'too long', 'it is too long')
    followed.line('asked', 'short')
    followed.line('refused', 'too many', '16 are waiting', turn=3)
    followed.line('answered', 'yes')
    assert followed.shown('prompt', 'phase', 'why') == [
        ('too long', 'refused', 'it is too long'), ('short', 'answered', ''),
        ('too many', 'refused', '16 are waiting')]


def test_reset_within_an_answer_is_marked_where_it_happened():
    followed = FollowedLog()
    followed.line('asked', 'hello')
    followed.line('reset', 'full')
    followed.piece('So')
    followed.line('reset', 'full')
    followed.piece(' on')
    assert followed.items[0]['resets'] == [(0, 'full'), (2, 'full')]


def test_answer_of_which_a_part_is_missing_says_so_until_its_end():
    followed = FollowedLog()
    followed.line('asked', 'one')
    followed.lose()
    followed.piece(' and two')
    assert followed.items[0]['is_joined_late']
    followed.line('answered', 'one and two')
    assert not followed.items[0]['is_joined_late']
    assert followed.items[0]['answer'] == 'one and two'


def test_log_that_begins_in_the_midst_of_a_run_shows_the_answer():
    followed = FollowedLog(run='')
    followed.run, followed.seq, followed.number = 'a', 204, 7
    followed.line('answered', 'yes')
    followed.line('asked', 'more')
    assert followed.shown('prompt', 'answer', 'phase') == [
        ('', 'yes', 'answered'), ('more', '', 'reading')]


@pytest.mark.parametrize(('prompt', 'why'), [
    (' \n', 'empty'), ('x' * (LONGEST_PROMPT + 1), f'{LONGEST_PROMPT + 1} characters')],
    ids=['empty', 'long'])
def test_prompt_that_cannot_be_taken_is_refused(prompt, why):
    followed = FollowedLog()
    with pytest.raises(PromptError, match=why):
        followed.log.submit(prompt, 'k')
    assert (followed.items, followed.sent) == ([], [])


def test_more_than_so_many_do_not_wait():
    followed = FollowedLog(takes=False)
    for number in range(MOST_WAITING):
        followed.log.submit('again', str(number))
    with pytest.raises(PromptError, match=f'{MOST_WAITING} prompts are waiting already'):
        followed.log.submit('again', 'k')


def test_oldest_items_are_forgotten():
    followed = FollowedLog()
    for number in range(MOST_ITEMS + 5):
        followed.turn(str(number), 'yes')
    assert len(followed.items) == MOST_ITEMS
    assert followed.items[0]['prompt'] == '5'


def test_oldest_items_are_forgotten_where_all_are_too_long_together():
    followed = FollowedLog()
    for number in range(5):
        followed.turn(str(number), 'a' * (MOST_CHARACTERS // 3))
    assert followed.shown('prompt') == [('2',), ('3',), ('4',)]
    followed.turn('long', 'a' * (MOST_CHARACTERS + 1))
    followed.line('asked', 'next')
    assert followed.shown('prompt') == [('next',)]


def test_log_of_another_epoch_is_given_whole():
    followed = FollowedLog()
    followed.turn('one', '1')
    message = followed.log.since('other', 99)
    assert message['is_whole']
    assert [item['prompt'] for item in message['items']] == ['one']


STEPS = st.lists(st.sampled_from(
    ['say', 'ask', 'piece', 'end', 'stop', 'reset', 'restart', 'go', 'come', 'refuse']),
    max_size=40)


@given(STEPS)
def test_page_that_comes_and_goes_shows_what_the_log_shows(steps):
    followed, prompts, is_here = FollowedLog(), itertools.count(), True
    runs = (f'run {number}' for number in itertools.count())
    for step in steps:
        if step == 'go' and is_here:
            followed.page.go()
            is_here = False
        elif step == 'come' and not is_here:
            followed.page.come()
            is_here = True
        elif step == 'say' and len(followed.items) < MOST_WAITING:
            number = str(next(prompts))
            followed.log.submit(number, number)
        elif step == 'ask':
            waiting = [item['prompt'] for item in followed.items if item['phase'] == 'waiting']
            followed.line('asked', waiting[0] if waiting else 'of another')
        elif step == 'piece':
            followed.piece('la')
        elif step in ('end', 'stop'):
            followed.line('answered' if step == 'end' else 'stopped', 'la la')
        elif step == 'reset':
            followed.line('reset', 'requested')
        elif step == 'restart':
            followed.begin(next(runs))
        elif step == 'refuse':
            followed.line('refused', 'no', 'because', turn=99)
    if not is_here:
        followed.page.come()
    assert len({item['id'] for item in followed.items}) == len(followed.items)
    assert followed.page.items == {item['id']: item for item in followed.items}
