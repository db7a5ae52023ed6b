"""The characters in which a byte-level BPE vocabulary writes bytes."""

from collections.abc import Mapping


def _byte_characters() -> dict[int, str]:
    """
    Return the character that stands for each byte, in the order of the bytes.

    Printable Latin-1 stands for itself, the other bytes for U+0100 and up in their order.
    Source: bytes_to_unicode in encoder.py of GPT-2,
    https://github.com/openai/gpt-2/blob/9b63575ef42771a015060c964af2c3da4cf7c8ab/src/encoder.py
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte if byte in printable else 0x100 + others.index(byte))
            for byte in range(256)}


BYTE_TO_CHARACTER: Mapping[int, str] = _byte_characters()
CHARACTER_TO_BYTE: Mapping[str, bytes] = {
    character: bytes([byte]) for byte, character in BYTE_TO_CHARACTER.items()}
