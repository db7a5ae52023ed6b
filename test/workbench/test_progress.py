"""Whoever waits sees that something is done, on a terminal or in a log."""

import logging

from tinyllama_ros.workbench import progress
from tinyllama_ros.workbench.progress import track


def test_log_that_is_no_terminal_says_what_begins_and_how_far_it_is(caplog, monkeypatch):
    clock = iter(range(0, 100, 4))  # four seconds an item
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(track('abcde', 'smooth', 5)) == list('abcde')
    assert caplog.messages == ['smooth: 0 of 5', 'smooth: 2 of 5', 'smooth: 4 of 5']


def test_library_is_silent_where_nobody_asked_for_messages(caplog):
    with caplog.at_level(logging.WARNING):
        assert list(track('ab', 'smooth', 2)) == ['a', 'b']
    assert caplog.messages == []
