"""Prompts that interrupt at any moment, from another process than the node's."""

from collections import defaultdict
import random
import time

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from support.robot import build_model, Robots  # noqa: E402

from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES  # noqa: E402

PROMPTS = 200
AT_ONCE = 20
ENDS = ('answered', 'stopped', 'failed', 'refused', 'dropped')


@pytest.fixture
def robots(tmp_path):
    robots = Robots(tmp_path)
    yield robots
    robots.close()


def test_nothing_of_an_answer_follows_its_interruption(robots, tmp_path):
    def wait_for_ends(count):
        robot.wait_until(lambda: sum(event.kind in ENDS for event in robot.stream) == count,
                         f'end of {count} prompts')

    model = build_model(tmp_path / 'model', SHAPES['tiny'])
    _, robot = robots.serve(model=str(model), threads=1, max_tokens=40, answer_room=32,
                            when_busy='interrupt', **{'sampling.temperature': 0.0})
    chance = random.Random(5)
    for number in range(PROMPTS):
        robot.say(f'{number}' * chance.choice([1, 1, 40]))
        time.sleep(chance.choice([0, 0.002, 0.02 * chance.random()]))
        if (number + 1) % AT_ONCE == 0:
            wait_for_ends(number + 1)
    robot.wait_for_state('idle')
    turns = defaultdict(list)
    for event in robot.stream:
        turns[event.turn].append((event.kind, event.text))
    del turns[0]  # what begins the run, and resets
    assert len(turns) == PROMPTS
    answers = []
    for number, events in turns.items():
        kinds = [kind for kind, _ in events]
        assert [kind in ENDS for kind in kinds] == [False] * (len(kinds) - 1) + [True], number
        assert kinds[-1] in ('answered', 'stopped', 'refused')
        tokens = [text for kind, text in events if kind == 'token']
        if kinds[-1] != 'refused':
            assert ''.join(tokens) == events[-1][1]
            answers.append((kinds[-1], len(tokens)))
    interrupted = sum(kind == 'stopped' for kind, _ in answers)
    assert interrupted > PROMPTS / 10
    robot.wait_for_texts('interrupted', interrupted)
    robot.wait_until(lambda: len(robot.texts('token')) == sum(count for _, count in answers),
                     'token of each answer')
    stamped = iter([event.topic for event in robot.events  # in the order of their stamps
                    if event.topic in ('token', 'interrupted')])
    for kind, count in answers:
        assert [next(stamped) for _ in range(count)] == ['token'] * count
        assert kind == 'answered' or next(stamped) == 'interrupted'
