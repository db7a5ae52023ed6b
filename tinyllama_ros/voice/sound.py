"""Sound as samples, and as a wav file."""

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO
import wave

from tinyllama_ros.voice.programs import SpeechError

SAMPLE_BYTES = 2


@dataclass(frozen=True)
class Sound:
    """Samples of 16 bits, signed and little-endian; those of all channels in turn."""

    samples: bytes = b''
    rate_hz: int = 22050
    channels: int = 1

    @property
    def length_s(self) -> float:
        return len(self.samples) / (SAMPLE_BYTES * self.channels * self.rate_hz)


def read_wav(data: bytes) -> Sound:
    """
    Return the sound of a wav file; no bytes are silence.

    A program that writes to a pipe does not know the length when it writes the header, so the
    samples are those that there are.

    :raises SpeechError: it is no wav file with samples of 16 bits.
    """
    if not data:
        return Sound()
    try:
        with wave.open(BytesIO(data)) as file:
            if file.getsampwidth() != SAMPLE_BYTES:
                raise SpeechError(f'the samples have {8 * file.getsampwidth()} bits; '
                                  'they must have 16')
            return Sound(file.readframes(file.getnframes()), file.getframerate(),
                         file.getnchannels())
    except (EOFError, wave.Error) as error:
        raise SpeechError(f'the synthesiser wrote no wav file: {error}') from error


def write_wav(sound: Sound, file: BinaryIO) -> None:
    """Write a sound as a wav file."""
    with wave.open(file, 'wb') as writer:
        writer.setnchannels(sound.channels)
        writer.setsampwidth(SAMPLE_BYTES)
        writer.setframerate(sound.rate_hz)
        writer.writeframes(sound.samples)
