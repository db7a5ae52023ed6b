"""Sound goes to a player that is installed, or into a folder."""

import json

import pytest
from support.speech import sounds_in, write_program

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.voice.programs import CutShort, Programs, SpeechError
from tinyllama_ros.voice.sinks import FolderSink, open_sink, PLAYERS
from tinyllama_ros.voice.sound import Sound

SOUND = Sound(b'\1\2' * 1000, 16000, 1)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return the only folder, beside that of setpriv, in which programs are found."""
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    return tmp_path / 'bin'


@pytest.mark.parametrize('name', PLAYERS)
def test_player_is_given_the_samples_and_their_form(name, programs, monkeypatch):
    write_program(programs / name, 'import json; json.dump([sys.argv[1:], '
                  f'sys.stdin.buffer.read().hex()], open({str(programs / "heard")!r}, "w"))')
    sink = open_sink(name)
    monkeypatch.undo()  # setpriv, which starts it, is elsewhere
    sink.play(SOUND, Programs())
    options, samples = json.loads((programs / 'heard').read_text())
    assert bytes.fromhex(samples) == SOUND.samples
    assert ' '.join(options).replace('=', ' ').replace('--', '').count('16000') == 1
    assert any('s16' in option.lower() for option in options)


@pytest.mark.parametrize('name', PLAYERS)
def test_player_that_is_missing_is_an_error_that_says_what_to_install(name, programs):
    with pytest.raises(ConfigError, match=f'sudo apt install {PLAYERS[name].package}'):
        open_sink(name)


def test_no_player_at_all_is_an_error_that_says_what_to_install(programs):
    with pytest.raises(ConfigError, match='neither aplay nor paplay .* install alsa-utils or '
                                          '.*pulseaudio-utils; or set sink'):
        open_sink('')


@pytest.mark.parametrize('name', PLAYERS)
def test_player_that_is_installed_is_the_default(name, programs):
    write_program(programs / name, '')
    assert open_sink('')._path == str(programs / name)


def test_name_of_no_player_is_no_folder():
    with pytest.raises(ConfigError, match="sink is 'alpay'; it must be aplay, paplay, or the"):
        open_sink('alpay')


def test_player_that_fails_says_why(programs, monkeypatch):
    write_program(programs / 'aplay', 'sys.exit("audio open error: No such device")')
    sink = open_sink('aplay')
    monkeypatch.undo()
    with pytest.raises(SpeechError, match='aplay ended with status 1: audio open error: No such'):
        sink.play(SOUND, Programs())


def test_files_of_a_folder_are_numbered_after_those_that_are_there(tmp_path):
    for _ in range(2):
        sink = open_sink(f'{tmp_path}/new/speech')
        sink.play(SOUND, Programs())
        sink.play(SOUND, Programs())
    folder = tmp_path / 'new' / 'speech'
    assert sorted(path.name for path in folder.iterdir()) == [
        '0001.wav', '0002.wav', '0003.wav', '0004.wav']
    assert sounds_in(folder) == [SOUND] * 4


def test_folder_takes_nothing_that_was_cut_short(tmp_path):
    programs = Programs()
    programs.end()
    with pytest.raises(CutShort):
        FolderSink(tmp_path).play(SOUND, programs)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='file/speech.* cannot be used'):
        open_sink(f'{tmp_path}/file/speech')


def test_folder_that_vanishes_is_named(tmp_path):
    sink = open_sink(f'{tmp_path}/speech')
    (tmp_path / 'speech').rmdir()
    with pytest.raises(SpeechError, match='speech/0001.wav cannot be written'):
        sink.play(SOUND, Programs())
