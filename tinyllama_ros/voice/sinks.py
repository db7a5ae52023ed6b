"""Plays sound: on a loudspeaker, by a program, or into a folder of wav files."""

from collections.abc import Callable, Mapping, Sequence
import os
from pathlib import Path
import re
import shutil
from typing import NamedTuple, Protocol

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.voice.programs import find_program, Programs, SpeechError
from tinyllama_ros.voice.sound import Sound, write_wav

SPARE_S = 10.0
"""How much longer than its sound a player may take, for instance to open the device."""


class Sink(Protocol):
    """Where sound goes."""

    def play(self, sound: Sound, programs: Programs) -> None:
        """
        Return when a sound was played to its end.

        :raises CutShort: the programs were ended.
        :raises SpeechError: it cannot be played.
        """


class Player(NamedTuple):
    """A program that plays raw samples from its standard input."""

    package: str
    """Of Debian and Ubuntu."""
    options: Callable[[Sound], Sequence[str]]


PLAYERS: Mapping[str, Player] = {
    'aplay': Player('alsa-utils', lambda sound: (
        '-q', '-t', 'raw', '-f', 'S16_LE', '-r', str(sound.rate_hz), '-c', str(sound.channels))),
    'paplay': Player('pulseaudio-utils', lambda sound: (
        '--raw', '--format=s16le', f'--rate={sound.rate_hz}', f'--channels={sound.channels}')),
}


class PlayerSink:
    """Plays each sound with a program of PLAYERS."""

    def __init__(self, name: str) -> None:
        """
        Find the program.

        :raises ConfigError: it is not installed.
        """
        self._path = find_program(name, PLAYERS[name].package)
        self._options = PLAYERS[name].options

    def play(self, sound: Sound, programs: Programs) -> None:
        programs.run([self._path, *self._options(sound)], sound.samples,
                     sound.length_s + SPARE_S)


class FolderSink:
    """Writes each sound as a file: 0001.wav and so on, after those that are there already."""

    def __init__(self, folder: Path) -> None:
        """
        Make the folder where it is missing.

        :raises ConfigError: it cannot be made or read.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = os.listdir(folder)
        except OSError as error:
            raise ConfigError(f'sink {str(folder)!r} cannot be used: {error}') from error
        self._folder = folder
        self._count = max((int(name[:-4]) for name in names
                           if re.fullmatch(r'[0-9]+\.wav', name)), default=0)

    def play(self, sound: Sound, programs: Programs) -> None:
        programs.check()
        path = self._folder / f'{self._count + 1:04}.wav'
        unfinished = path.with_suffix('.part')
        try:
            with unfinished.open('wb') as file:
                write_wav(sound, file)
            unfinished.rename(path)  # whoever finds it finds all of it
        except OSError as error:
            raise SpeechError(f'{path} cannot be written: {error}') from error
        self._count += 1


def open_sink(name: str) -> Sink:
    """
    Return the sink of a name, as in the parameter of the node.

    :raises ConfigError: it is missing; says what to install.
    """
    if not name:
        found = next(filter(shutil.which, PLAYERS), None)
        if found is None:
            packages = ' or '.join(f'sudo apt install {player.package}'
                                   for player in PLAYERS.values())
            raise ConfigError(f'there is neither {" nor ".join(PLAYERS)} to play the sound; run: '
                              f'{packages}; or set sink to the path of a folder')
        name = found
    if name in PLAYERS:
        return PlayerSink(name)
    if '/' not in name:
        raise ConfigError(f'sink is {name!r}; it must be {", ".join(PLAYERS)}, or the path of a '
                          'folder, such as ./speech')
    try:
        return FolderSink(Path(name).expanduser())
    except RuntimeError as error:  # no home folder
        raise ConfigError(f'sink {name!r} cannot be used: {error}') from error
