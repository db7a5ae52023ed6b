"""Messages that the middleware loses are counted, whichever publishers they are from."""

from random import Random

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from tinyllama_ros.ros.topic_input import MOST_PUBLISHERS, SequenceNumbers  # noqa: E402


def lost(*numbers, unheard=0):
    """Return how many messages are missing before those with these numbers."""
    sequence = SequenceNumbers(unheard)
    return sum(sequence.add(number) for number in numbers)


@pytest.mark.parametrize('seed', range(10))
def test_gaps_of_several_publishers_have_the_sum_of_what_was_lost(seed):
    random = Random(seed)
    newest, numbers, dropped = [1] * 3, [1] * 3, 0
    for _ in range(300):
        publisher, gap = random.randrange(3), random.choice([0, 0, 0, 1, 7, 40])
        newest[publisher] += 1 + gap
        dropped += gap
        numbers.append(newest[publisher])
    numbers += [number + 1 for number in sorted(newest)]  # until then a gap can lie elsewhere
    assert lost(*numbers) == dropped


def test_publisher_that_comes_late_has_lost_nothing():
    assert lost(1, 2, 3, 1, 2, 4) == 0
    assert lost(7, 8, 3, 4, 9, 5) == 0


def test_publishers_that_published_before_are_given_one_gap_each():
    assert lost(5, 500, 6, 501, unheard=1) == 0
    assert lost(5, 500, 6, 503, unheard=1) == 2


def test_only_so_many_publishers_are_remembered():
    sequence = SequenceNumbers(0)
    for number in range(2 * MOST_PUBLISHERS, 0, -1):
        assert sequence.add(number) == 0
    assert len(sequence._newest) == MOST_PUBLISHERS
