"""Turns sentences into sound, with espeak-ng or Piper; the text is their standard input."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
import re
import sys

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.voice.programs import find_program, Programs, SpeechError
from tinyllama_ros.voice.sound import read_wav, Sound

SYNTHESIS_S = 30.0
"""How long a sentence may take; Piper loads its voice each time."""
NO_TEXT = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
"""Control characters, which are commands of espeak-ng, and halves of surrogate pairs."""
PHONEMES = re.compile(r'\[(?=\[)')
"""Both programs take what stands in [[ ]] for phonemes, not for text."""


def plain_text(sentence: str) -> str:
    """Return a sentence as one line, in which a synthesiser finds nothing but text."""
    return PHONEMES.sub('[ ', NO_TEXT.sub(' ', sentence)).strip()


class Synthesizer:
    """Runs a program for each sentence, which reads text and writes a wav file."""

    def __init__(self, command: Sequence[str], timeout_s: float = SYNTHESIS_S) -> None:
        self._command = command
        self._timeout_s = timeout_s

    def synthesize(self, sentence: str, programs: Programs) -> Sound:
        """
        Return a sentence as sound.

        :raises CutShort: the programs were ended.
        :raises SpeechError: the program fails or does not end in time.
        """
        text = f'{plain_text(sentence)}\n'.encode()
        return read_wav(programs.run(self._command, text, self._timeout_s))


def open_synthesizer(voice: str) -> Synthesizer:
    """
    Return what speaks with a voice, after it has spoken a word.

    :param voice: as the parameter of the node.
    :raises ConfigError: the program or the voice is missing.
    """
    synthesizer = Synthesizer(_piper(voice) if voice.endswith('.onnx') else [
        find_program('espeak-ng', 'espeak-ng'), '-v', voice, '-b', '1', '--stdin', '--stdout'])
    try:
        is_silent = not synthesizer.synthesize('one', Programs()).samples
    except SpeechError as error:
        raise ConfigError(f'the voice {voice!r} cannot speak: {error}') from error
    if is_silent:
        raise ConfigError(f'the voice {voice!r} is silent; name another (espeak-ng --voices '
                          'lists those of espeak-ng)')
    return synthesizer


def _piper(voice: str) -> list[str]:
    # A program of its own, because it can then be killed in mid-sentence
    path = Path(voice).expanduser().absolute()
    for needed in (path, Path(f'{path}.json')):
        if not needed.is_file():
            raise ConfigError(f'the file {needed} does not exist; a voice of Piper is two files, '
                              'NAME.onnx and NAME.onnx.json')
    if find_spec('piper') is None:
        raise ConfigError(f'the voice {voice!r} needs the Python package piper-tts, which is '
                          'missing here; run: pip install piper-tts')
    return [sys.executable, '-m', 'piper', '-m', str(path), '-f', '-']
