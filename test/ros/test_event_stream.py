"""Every event comes once and in order, however ~/history and ~/event are mixed."""

import random

from hypothesis import given, strategies as st

from tinyllama_ros.ros.event_stream import EventStream, MOST_EARLY
from tinyllama_ros.ros.wire import ConversationEvent

KINDS = ('begun', 'asked', 'token', 'token', 'answered', 'reset', 'asked', 'token', 'stopped')


def run_of(name, kinds=KINDS):
    """Return the events of a run."""
    line, events = 0, []
    for seq, kind in enumerate(kinds, 1):
        line += kind != 'token'
        events.append(ConversationEvent(name, 0, seq, line, kind, f'{name}{seq}'))
    return events


def mixed(first, second, seed):
    """Return two sequences as one, each of them in its order."""
    chance = random.Random(seed)
    queues, out = [list(first), list(second)], []
    while any(queues):
        queue = chance.choice([queue for queue in queues if queue])
        out.append(queue.pop(0))
    return out


def received(messages):
    """Return what a stream passes on of (topic, event)."""
    out = []
    stream = EventStream(out.append)
    for topic, event in messages:
        (stream.add_history if topic == 'history' else stream.add_live)(event)
    return out


def history(events, depth=200):
    return [('history', event) for event in events if event.kind != 'token'][-depth:]


def live(events):
    return [('live', event) for event in events]


@given(st.integers(0, 9), st.integers(0, 2**32), st.integers(1, 9))
def test_client_that_comes_at_any_time_gets_each_event_once_and_in_order(joined_at, seed, depth):
    events = run_of('a')
    before = [event for event in events[:joined_at] if event.kind != 'token']
    kept = before[-depth:]
    after = [event for event in events[joined_at:] if event.kind != 'token']
    out = received(mixed([('history', event) for event in [*kept, *after]],
                         live(events[joined_at:]), seed))
    seqs = [event.seq for event in out]
    assert seqs == sorted(set(seqs))
    lines = [event.seq for event in [*kept, *after]]
    assert set(lines) <= set(seqs) <= set(lines) | {event.seq for event in events[joined_at:]}
    assert out[-1] == events[-1]


def test_live_events_alone_are_passed_on_as_they_come():
    events = run_of('a')
    assert received(live(events)) == events


def test_tokens_that_overtake_the_history_wait_for_it():
    events = run_of('a')
    assert received([*live(events[3:5]), *history(events[:3])]) == [
        *(event for event in events[:3] if event.kind != 'token'), *events[3:5]]


@given(st.integers(0, 2**32))
def test_new_run_follows_the_old_one_and_late_messages_of_that_are_dropped(seed):
    first, second = run_of('a'), run_of('b')
    out = received([*live(first), *mixed(history(first), live(second), seed),
                    *history(second)])
    assert out == [*first, *second]


def test_node_that_restarted_while_its_first_events_were_lost_is_known_by_its_history():
    first, second = run_of('a'), run_of('b')
    out = received([*live(first), *live(second[2:4]), *history(second[:2]), *live(second[4:])])
    assert out == [*first, *second]


def test_client_that_comes_after_two_runs_gets_both_of_the_history():
    first, second = run_of('a'), run_of('b')
    out = received([*live(second[6:7]), *history(first), *history(second), *live(second[7:])])
    assert [event.text for event in out] == [
        *(event.text for event in first if event.kind != 'token'),
        *(event.text for event in second if event.kind != 'token' or event.seq > 7)]


def test_events_that_wait_for_a_history_are_no_more_than_a_queue_holds():
    events = run_of('a', ('begun', 'asked', *['token'] * 3 * MOST_EARLY))
    waited = [('live', event) for event in events[2:]]
    assert received([*waited, *history(events)]) == [*events[:2], *events[-MOST_EARLY:]]
