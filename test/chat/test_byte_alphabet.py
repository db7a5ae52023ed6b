from tokenizers import decoders, pre_tokenizers

from tinyllama_ros.chat.byte_alphabet import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE


def test_every_byte_has_a_character_of_its_own_and_comes_back():
    assert list(BYTE_TO_CHARACTER) == list(range(256))
    assert [CHARACTER_TO_BYTE[character] for character in BYTE_TO_CHARACTER.values()] == [
        bytes([byte]) for byte in range(256)]


def test_characters_are_those_of_the_tokenizers_library():
    assert set(BYTE_TO_CHARACTER.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    text = '\u00e9\U0001f916 \n\x00\u007f\u00ad'
    spelled = [BYTE_TO_CHARACTER[byte] for byte in text.encode()]
    assert decoders.ByteLevel().decode(spelled) == text
