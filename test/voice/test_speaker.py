"""Sentences are spoken in order, and an interruption stops the sound at once."""

import os
import signal
import time

import pytest
from support.robot import poll_until
from support.speech import (
    endless_player,
    Heard,
    is_running,
    is_speech,
    needs_espeak,
    sounds_in,
    write_program,
)

from tinyllama_ros.voice.sinks import open_sink
from tinyllama_ros.voice.sound import Sound
from tinyllama_ros.voice.speaker import Speaker
from tinyllama_ros.voice.synthesis import open_synthesizer, Synthesizer

STOPS_S = 0.3


class Beeps:
    """A synthesiser that needs no program."""

    def synthesize(self, sentence, programs):
        programs.check()
        return Sound(b'' if sentence == 'silence' else b'\1\2' * 100)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def make(heard):
    """Return a function that makes a speaker, which is closed at the end."""
    made = []

    def make(synthesizer, sink):
        speaker = Speaker(synthesizer, sink, on_speaking=heard.note('speaking'),
                          on_spoken=heard.note('spoken'), on_error=heard.note('error'))
        made.append(speaker)
        return speaker

    yield make
    for speaker in made:
        speaker.close()


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """Return a sink whose sound has no end, and a function that waits for its process."""
    endless_player(tmp_path / 'bin')
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')

    def next_process():
        poll_until((tmp_path / 'bin' / 'pid').exists, 'sound')
        pid = int((tmp_path / 'bin' / 'pid').read_text())
        (tmp_path / 'bin' / 'pid').unlink()
        return pid

    return open_sink('aplay'), next_process


@needs_espeak
def test_sentences_become_sound_in_their_order(make, heard, tmp_path):
    speaker = make(open_synthesizer('en'), open_sink(str(tmp_path)))
    sentences = ['One.', 'Two is longer than one.', 'Now this is the third sentence.']
    for number, sentence in enumerate(sentences):
        speaker.say(sentence, number + 1)
    heard.wait_for('spoken', ' '.join(sentences))
    sounds = sounds_in(tmp_path)
    assert [is_speech(sound, len(sentence.split()))
            for sound, sentence in zip(sounds, sentences, strict=True)] == [True] * 3
    assert sounds[0].length_s < sounds[1].length_s < sounds[2].length_s


def test_spoken_grows_with_each_sentence_and_begins_again_with_an_answer(make, heard, tmp_path):
    speaker = make(Beeps(), open_sink(str(tmp_path)))
    for stamp, sentence in ((1, 'One.'), (2, 'silence'), (3, 'Two.')):
        speaker.say(sentence, stamp)
        heard.wait_for('spoken', ' '.join(['One.', 'silence', 'Two.'][:stamp]))
    speaker.end_answer(4)
    speaker.say('Three.', 5)
    heard.wait_for('spoken', 'Three.')
    assert heard.values('spoken') == ['', 'One.', 'One. silence', 'One. silence Two.', '',
                                      'Three.']
    assert len(sounds_in(tmp_path)) == 3


def test_speaking_is_true_from_the_first_sound_to_the_last(make, heard, endless):
    sink, next_process = endless
    speaker = make(Beeps(), sink)
    speaker.say('silence', 1)
    heard.wait_for('spoken', 'silence')
    assert heard.values('speaking') == []
    speaker.say('One.', 2)
    speaker.say('Two.', 3)
    for _ in range(2):
        pid = next_process()
        assert heard.values('speaking') == [True]
        os.kill(pid, signal.SIGKILL)
    heard.wait_for('speaking', False)
    assert heard.values('speaking') == [True, False]


def test_interruption_stops_the_sound_and_drops_what_waits(make, heard, endless):
    sink, next_process = endless
    speaker = make(Beeps(), sink)
    times_s = []
    for stamp in (1, 10, 20):
        for number in range(5):
            speaker.say(f'{stamp + number}', stamp + number)
        pid = next_process()
        heard.wait_for('speaking', True)
        began_s = time.monotonic()
        speaker.interrupt(stamp + 4)
        assert heard.values('speaking')[-1] is False
        poll_until(lambda pid=pid: not is_running(pid), 'end of the sound')
        times_s.append(time.monotonic() - began_s)
    speaker.say('late', 24)
    speaker.say('new', 25)
    assert is_running(next_process())
    assert heard.values('spoken') == ['']
    assert min(times_s) < STOPS_S  # the others may have waited for the processor


def test_interruption_stops_a_synthesiser_that_hangs(make, heard, tmp_path):
    hanging = write_program(
        tmp_path / 'bin' / 'hang', 'print(sys.stdin.read(), file=sys.stderr)\n'
        f'open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()) + " ")\ntime.sleep(600)')
    speaker = make(Synthesizer([str(hanging)]), open_sink(str(tmp_path)))
    speaker.say('word', 1)
    poll_until(lambda: (tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text(), 'start')
    speaker.interrupt(1)
    poll_until(lambda: not is_running(int((tmp_path / 'pid').read_text())), 'end')
    assert heard.all == [('spoken', '')]


def test_sentence_of_the_next_answer_is_spoken_though_the_interruption_came_after_it(
        make, heard, tmp_path):
    speaker = make(Beeps(), open_sink(str(tmp_path)))
    speaker.say('new', 3)
    speaker.interrupt(2)
    speaker.say('old', 1)
    heard.wait_for('spoken', 'new')
    assert len(sounds_in(tmp_path)) == 1


def test_sentence_that_cannot_be_spoken_is_told_and_the_next_one_is_spoken(
        make, heard, tmp_path):
    crashing = write_program(
        tmp_path / 'bin' / 'speak', 'text = sys.stdin.read()\n'
        'if "die" in text: sys.exit("out of breath")\nif "hang" in text: time.sleep(600)\n'
        'import wave\nwith wave.open(sys.stdout.buffer, "wb") as file:\n'
        '    file.setparams((1, 2, 22050, 0, "NONE", ""))\n    file.writeframes(b"12" * 99)')
    speaker = make(Synthesizer([str(crashing)], timeout_s=1), open_sink(f'{tmp_path}/out'))
    for stamp, text in enumerate(['die', 'hang', 'go on']):
        speaker.say(text, stamp + 1)
    heard.wait_for('spoken', 'go on')
    assert heard.values('error') == [
        "the sentence 'die' is not spoken: speak ended with status 1: out of breath",
        "the sentence 'hang' is not spoken: speak did not end within 1 s and was killed"]
    assert len(sounds_in(tmp_path / 'out')) == 1


def test_close_ends_the_sound_and_says_so(make, heard, endless):
    sink, next_process = endless
    speaker = make(Beeps(), sink)
    speaker.say('One.', 1)
    pid = next_process()
    heard.wait_for('speaking', True)
    for _ in range(2):
        speaker.close()
        assert heard.values('speaking') == [True, False]
    assert not is_running(pid)
