"""What was spoken counts for the answer that it belongs to."""

from hypothesis import given, strategies as st

from tinyllama_ros.voice.spoken_record import SpokenRecord


def test_nothing_is_told_before_the_first_sentence():
    record = SpokenRecord()
    record.end_answer(1)
    assert record.news() is None


def test_spoken_sentences_of_one_answer_are_joined():
    record = SpokenRecord()
    told = []
    for stamp in (1, 2):
        record.add_sentence(stamp)
        told.append(record.news())
    for stamp, text in ((1, 'One.'), (2, 'Two.')):
        record.add_spoken(text, stamp)
        told.append(record.news())
    assert told == ['', None, 'One.', 'One. Two.']
    assert record.news() is None


def test_voice_that_lags_behind_says_nothing_of_an_older_answer():
    record = SpokenRecord()
    record.add_sentence(1)
    record.news()
    record.end_answer(2)
    record.add_sentence(3)
    assert record.news() == ''
    record.add_spoken('Of the old one.', 1)
    assert record.news() is None
    record.add_spoken('Of the new one.', 3)
    assert record.news() == 'Of the new one.'


def test_end_of_an_answer_may_come_after_the_sentences_of_the_next():
    record = SpokenRecord()
    record.add_sentence(1)
    record.add_spoken('Of the old one.', 1)
    record.add_sentence(3)
    assert record.news() == 'Of the old one.'
    record.end_answer(2)
    assert record.news() == ''


@given(st.permutations(range(6)))
def test_order_of_arrival_changes_nothing_in_the_end(order):
    record = SpokenRecord()
    events = [lambda: record.add_sentence(1), lambda: record.end_answer(2),
              lambda: record.add_sentence(3), lambda: record.end_answer(4),
              lambda: record.add_spoken('Old.', 1), lambda: record.add_spoken('New.', 3)]
    told = []
    for number in order:
        events[number]()
        told.append(record.news())
    assert [text for text in told if text is not None][-1] == 'New.'
