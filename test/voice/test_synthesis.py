"""Text becomes sound, and whatever is in it is text."""

import json
import sys

import numpy as np
import pytest
from support.speech import is_speech, loudness, needs_espeak

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.voice.programs import Programs, SpeechError
from tinyllama_ros.voice.sound import read_wav, Sound
from tinyllama_ros.voice.synthesis import open_synthesizer, plain_text, Synthesizer


@pytest.fixture(scope='module')
def espeak():
    return open_synthesizer('en')


def say(synthesizer, text):
    return synthesizer.synthesize(text, Programs())


@needs_espeak
@pytest.mark.parametrize(('text', 'words'), [
    ('Hello, I am your robot.', 5), ('Die Tür ist größer: 日本 हिन्दी.', 4),
    ('-v de --version', 3), ('-', 1), ('--', 1), ('It\'s "quoted" here', 3),
    ('$(touch hacked) `touch hacked`; touch hacked', 5),
    ('a <break time="60s"/> b', 4), ('<speak><audio src="x.wav"/>word</speak>', 15),
    ('nul\0in the middle\x01 50P', 4), ('two\r\nlines\u2028three', 3), ("[[h@l'oU]] there", 2),
    ('&amp; &lt; %s %n \\n', 4)])
def test_whatever_is_in_a_text_is_spoken_and_never_executed(
        espeak, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound = say(espeak, text)
    assert is_speech(sound, words) or (text.strip('-') == '' and sound.length_s < 1)
    assert list(tmp_path.iterdir()) == []


@needs_espeak
def test_option_at_the_start_of_a_text_changes_nothing(espeak):
    assert say(espeak, '-s 450 the quick brown fox').length_s > say(
        espeak, 'the quick brown fox').length_s


@needs_espeak
def test_text_in_brackets_is_no_list_of_phonemes(espeak):
    assert say(espeak, '[[1,2],[3,4]]').length_s > 1


@needs_espeak
@pytest.mark.parametrize('text', ['', ' ', '\0', '\ud800', '…'])
def test_text_without_sound_is_no_failure(espeak, text):
    sound = say(espeak, text)
    assert not sound.samples or loudness(sound) < 0.01 or sound.length_s < 1


@needs_espeak
def test_long_sentence_is_spoken_whole(espeak):
    one, hundred = say(espeak, 'seven'), say(espeak, 'seven ' * 100)
    assert hundred.length_s > 25 * one.length_s


@needs_espeak
def test_voice_that_there_is_not_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="the voice 'nosuch' cannot speak: espeak-ng ended with "
                                          'status 1: .*voice does not exist'):
        open_synthesizer('nosuch')


def test_synthesizer_that_is_missing_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(ConfigError, match='espeak-ng is missing here; run: sudo apt install '
                                          'espeak-ng'):
        open_synthesizer('en')


@pytest.mark.parametrize(('text', 'plain'), [
    ('a\0b\x1bc\x9bd\ud800e\n', 'a b c d e'), ('[[[a]]', '[ [ [a]]'), ('می‌خواهم', 'می‌خواهم')])
def test_plain_text_is_one_line_of_characters(text, plain):
    assert plain_text(text) == plain


def test_program_that_hangs_is_told_and_killed():
    hanging = Synthesizer([sys.executable, '-c', 'import time; time.sleep(600)'], timeout_s=0.2)
    with pytest.raises(SpeechError, match='did not end within 0 s and was killed'):
        say(hanging, 'word')


@pytest.mark.parametrize(('program', 'why'), [
    ('import sys; sys.exit("no voice")', 'ended with status 1: no voice'),
    ('import os; os.kill(os.getpid(), 11)', 'was ended by signal 11: it did not say why'),
    ('print("RIFF")', 'the synthesiser wrote no wav file'), ('print("x" * 99)', 'no wav file')])
def test_program_that_dies_is_told_with_the_reason(program, why):
    with pytest.raises(SpeechError, match=why):
        say(Synthesizer([sys.executable, '-S', '-c', program]), 'word ' * 100_000)


def test_program_that_cannot_be_started_is_named():
    with pytest.raises(SpeechError, match='no-such-program'):
        say(Synthesizer(['/no-such-program']), 'word')


def test_sound_of_8_bits_is_refused():
    wav = (b'RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0'
           b'data\4\0\0\0abcd')
    with pytest.raises(SpeechError, match='the samples have 8 bits; they must have 16'):
        read_wav(wav)


def test_no_bytes_are_silence():
    assert read_wav(b'') == Sound()


@pytest.fixture
def piper_voice(tmp_path):
    """Return a voice of Piper that hums: 0.02 s for each phoneme."""
    pytest.importorskip('piper', reason='piper-tts is not installed')
    from onnx import helper, save, TensorProto
    hum = (np.sin(np.arange(441) / 10) / 2).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node('Cast', ['input'], ['ids'], to=TensorProto.FLOAT),
         helper.make_node('Mul', ['ids', 'none'], ['zeros']),
         helper.make_node('Unsqueeze', ['zeros', 'last'], ['rows']),
         helper.make_node('Add', ['rows', 'hum'], ['hums']),
         helper.make_node('Reshape', ['hums', 'shape'], ['output'])],
        'voice',
        [helper.make_tensor_value_info('input', TensorProto.INT64, [1, 'length']),
         helper.make_tensor_value_info('input_lengths', TensorProto.INT64, [1]),
         helper.make_tensor_value_info('scales', TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, [1, 1, 1, 'samples'])],
        [helper.make_tensor('none', TensorProto.FLOAT, [], [0]),
         helper.make_tensor('last', TensorProto.INT64, [1], [2]),
         helper.make_tensor('shape', TensorProto.INT64, [4], [1, 1, 1, -1]),
         helper.make_tensor('hum', TensorProto.FLOAT, [441], hum)])
    path = tmp_path / 'hum.onnx'
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8), path)
    letters = '_^$ abcdefghijklmnopqrstuvwxyz.,əɪʊɑɔɛæˈˌːðθʃʒŋɹɡʌɐɜɚ'
    (tmp_path / 'hum.onnx.json').write_text(json.dumps({
        'audio': {'sample_rate': 22050}, 'espeak': {'voice': 'en-us'}, 'num_symbols': 256,
        'num_speakers': 1, 'phoneme_type': 'espeak', 'inference': {},
        'phoneme_id_map': {letter: [number] for number, letter in enumerate(letters)}}))
    return path


def test_piper_speaks_what_its_standard_input_says(piper_voice):
    piper = open_synthesizer(str(piper_voice))
    sound = say(piper, '-f; $(touch hacked)')
    assert sound.length_s > 0.2
    assert loudness(sound) > 0.02


def test_piper_voice_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match='gone.onnx does not exist; a voice of Piper is two'):
        open_synthesizer(str(tmp_path / 'gone.onnx'))


def test_piper_that_is_missing_is_named(tmp_path, monkeypatch):
    for name in ('a.onnx', 'a.onnx.json'):
        (tmp_path / name).touch()
    monkeypatch.setattr('tinyllama_ros.voice.synthesis.find_spec', lambda _: None)
    with pytest.raises(ConfigError, match='pip install piper-tts'):
        open_synthesizer(str(tmp_path / 'a.onnx'))
