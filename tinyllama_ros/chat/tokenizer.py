"""
Turns text into token ids and back, for both kinds of vocabulary.

Text is always plain here: it never becomes a control token, whatever it holds. Only the chat
template adds control tokens.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TYPE_CHECKING

from tinyllama_ros.artifact.disk import read_file
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.byte_alphabet import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE
from tinyllama_ros.errors import ArtifactError, ConfigError, missing_package, ModelError, reason_of

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as BpeModel

SPACE = '\u2581'
"""What SentencePiece writes for a space."""
NO_DUMMY_PREFIX = b'\x1a\x02\x18\x00'
"""``normalizer_spec {add_dummy_prefix: false}`` of sentencepiece_model.proto: protobuf messages
that stand one after the other are merged, and the last value of a field wins."""


class Tokenizer(Protocol):
    """The operations of a vocabulary that the chat uses."""

    vocab_size: int
    longest_token: int
    """Bytes of the text of the longest token."""
    starts_with_space: bool
    """Whether the first token of a text begins with a space that the text does not have."""

    def encode(self, text: str, *, at_start: bool = True) -> list[int]:
        """
        Return the ids of a text, never that of a control token.

        :param at_start: False if the text continues a text that was cut; True at the start and
            after a control token, where SentencePiece puts a space in front.
        """
        ...

    def spell(self, text: str) -> list[int]:
        """
        Return the ids of a text with one token for each character or UTF-8 byte.

        A byte that the vocabulary does not have is left out, as in `encode`.
        """
        ...

    def token_bytes(self, token: int) -> bytes:
        """Return the text of a token in UTF-8: b'' for a special token and for an unknown id."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, with U+FFFD for what is not UTF-8."""
        return b''.join(map(self.token_bytes, tokens)).decode('utf-8', 'replace')


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """
    Return the tokenizer of an artifact.

    :raises ConfigError: the library for this kind is not installed.
    :raises ArtifactError: the file cannot be read, or is not the one that the settings describe.
    """
    try:
        return load_tokenizer(read_file(artifact.tokenizer), artifact.manifest.tokenizer)
    except (OSError, ModelError) as error:
        raise ArtifactError(f'{artifact.tokenizer} cannot be used: {error}; build the artifact '
                            'again') from error


def load_tokenizer(data: bytes, settings: TokenizerSettings) -> Tokenizer:
    """
    Return the tokenizer in the content of a file of the kind that the settings name.

    :raises ConfigError: the library for this kind is not installed.
    :raises ModelError: the content is no such tokenizer, or not the one that they describe.
    """
    kinds: Mapping[str, type[BpeTokenizer] | type[SentencePieceTokenizer]] = {
        'bpe': BpeTokenizer, 'sentencepiece': SentencePieceTokenizer}
    try:
        tokenizer = kinds[settings.kind](data, settings.control_tokens, settings.text_tokens)
    except ConfigError:
        raise
    except Exception as error:  # the libraries also raise plain Exception
        raise ModelError(f'it is not a valid {settings.kind} tokenizer ({reason_of(error)})'
                         ) from error
    for text, token in settings.control_tokens.items():
        own = tokenizer.token_text(token)  # None: added to the model beyond its vocabulary
        if own not in (text, None):
            raise ModelError(f'its token {token} is {own!r}, but the model has {text!r}')
    return tokenizer


class BpeTokenizer(Tokenizer):
    """A byte-level BPE vocabulary, in a tokenizer.json of the tokenizers library."""

    starts_with_space = False

    def __init__(self, data: bytes, control_tokens: Mapping[str, int],
                 text_tokens: Iterable[int] = ()) -> None:
        self._model = _bpe_model(data)
        self._control = frozenset(control_tokens.values())
        self._special = self._control.difference(text_tokens)
        self.vocab_size = max(self._model.get_vocab_size(), *(i + 1 for i in self._control))
        # A character stands for a byte, except in added tokens
        texts = (self.token_text(token) or '' for token in range(self.vocab_size)
                 if token not in self._special)
        self.longest_token = max(*map(len, texts), *(len(self.token_bytes(token))
                                                     for token in text_tokens))

    def encode(self, text: str, *, at_start: bool = True) -> list[int]:
        encoding = self._model.encode(text, add_special_tokens=False)
        if self._control.isdisjoint(encoding.ids):
            return encoding.ids
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return [piece for token, (start, end) in spans
                for piece in (self.spell(text[start:end]) if token in self._control else [token])]

    def spell(self, text: str) -> list[int]:
        tokens = (self._model.token_to_id(BYTE_TO_CHARACTER[byte]) for byte in text.encode())
        return [token for token in tokens if token is not None and token not in self._control]

    def token_bytes(self, token: int) -> bytes:
        text = None if token in self._special else self.token_text(token)
        # An added token is plain text, so it may hold characters that stand for no byte.
        return b''.join(CHARACTER_TO_BYTE.get(character) or character.encode()
                        for character in text or '')

    def token_text(self, token: int) -> str | None:
        """Return a token as the vocabulary writes it; None where it has no such id."""
        return self._model.id_to_token(token)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece vocabulary with byte fallback, in a tokenizer.model."""

    def __init__(self, data: bytes, control_tokens: Mapping[str, int],
                 text_tokens: Iterable[int] = ()) -> None:
        self._at_start = _sentencepiece_model(data)
        self._in_the_middle = _sentencepiece_model(data + NO_DUMMY_PREFIX)
        self._control = {token: text for text, token in control_tokens.items()}
        self._text_tokens = frozenset(text_tokens)
        self._pieces = self._at_start.get_piece_size()
        self.vocab_size = max(self._pieces, *(i + 1 for i in self._control))
        self.longest_token = max(
            len(piece.replace(SPACE, ' ').encode())
            for piece in self._at_start.id_to_piece(list(range(self._pieces))))
        self.starts_with_space = self._at_start.encode('a') != self._in_the_middle.encode('a')

    def encode(self, text: str, *, at_start: bool = True) -> list[int]:
        model = self._at_start if at_start else self._in_the_middle
        # A control token of the model may be an ordinary "user defined" piece of its vocabulary.
        return [piece for token in model.encode(text)
                for piece in (self.spell(self._control[token]) if token in self._control
                              else [token])]

    def spell(self, text: str) -> list[int]:
        return [token for character in text.replace(' ', SPACE)
                for token in self._spell_character(character)]

    def _spell_character(self, character: str) -> list[int]:
        model = self._in_the_middle
        token = model.piece_to_id(character)
        if not model.is_unknown(token) and token not in self._control:
            return [token]
        tokens = [model.piece_to_id(f'<0x{byte:02X}>') for byte in character.encode()]
        return [token for token in tokens if not model.is_unknown(token)]

    def token_bytes(self, token: int) -> bytes:
        piece = self.token_text(token)
        if token in self._text_tokens and piece is not None:
            return piece.encode()
        if (piece is None or token in self._control or self._at_start.is_control(token)
                or self._at_start.is_unknown(token)):
            return b''
        if self._at_start.is_byte(token):
            return bytes.fromhex(piece[3:5])  # <0xNN>
        return piece.replace(SPACE, ' ').encode()

    def token_text(self, token: int) -> str | None:
        """Return a token as the vocabulary writes it; None where it has no such id."""
        return self._at_start.id_to_piece(token) if 0 <= token < self._pieces else None


def _bpe_model(data: bytes) -> 'BpeModel':
    with missing_package('a byte-level BPE vocabulary', ConfigError):
        from tokenizers import Tokenizer as BpeModel
    model = BpeModel.from_str(data.decode())
    if hasattr(model.model, '_resize_cache'):  # from tokenizers 0.20.4 on
        # Its cache of 10,000 words takes up to 80 MB, and saves 0.1 us for each character
        model.model._resize_cache(0)
    return model


def _sentencepiece_model(data: bytes) -> 'SentencePieceProcessor':
    with missing_package('a SentencePiece vocabulary', ConfigError):
        from sentencepiece import SentencePieceProcessor
    return SentencePieceProcessor(model_proto=data)
