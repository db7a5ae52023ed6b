"""
Encodes a conversation as token ids, by the model's own chat template.

Contents of messages are data: they never become a control token or a role marker, whatever they
spell.
Before the template sees a content, an invisible *seam* (a private-use character that occurs
nowhere else) is put in front of it and after each of its characters that a marker could begin
with. A marker that begins in data then has a seam after its first character, one that begins in
structure and goes on in data has a seam where the data begins. So in the rendered text

- a control token without a seam is structure, and only that becomes one token;
- a marker with a seam inside is data, at least in part: it is spelled, one character per token,
  which the model never saw as structure;
- all else, structure and data together, is encoded without its seams as one text, so that tokens
  that span both are those the model was trained with.

It does not matter how a marker comes to be: written in one content, in halves that the template
joins, with a part of the structure, or by a filter that deletes characters or changes their case.
The price: a template that searches contents for a tag of its own finds none that begins like a
marker.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
import re

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.message import Message, ROLES
from tinyllama_ros.chat.rendering import Cancelled, EndlessTemplate, Renderer
from tinyllama_ros.chat.tokenizer import Tokenizer
from tinyllama_ros.errors import ModelError, PromptError

ROLE_MARKER = re.compile(r"""
      <[|｜][^<>|｜\s'"]+[|｜]>              # <|user|>
    | <</?\w+>> | </?\w+>                    # <<SYS>>  <s>  <start_of_turn>
    | \[/?[A-Z_]+\]                          # [INST]
    | (?<!\#)\#{2,}\ ?[A-Z]\w*(?:\ \w+)*:?          # ### Instruction:
    | \b(?i:system|user|human|assistant|bot):
    """, re.VERBOSE)
"""What separates the speakers in a template. No two of these forms overlap or nest."""
NOTHING = '(?!)'
"""A pattern that matches nowhere."""
SEAMS = range(0xF0000, 0x10FFFE)
"""Private use: no character of any script."""
LONGEST_PIECE = 16_384
"""Characters that are encoded at once, in some 20 ms, during which no other thread runs."""
BETWEEN_WORDS = re.compile(r'(?<=[^\W\d_]) (?=[^\W\d_])')
"""Where no token spans both sides."""


class ChatTemplate:
    """Encodes conversations in the form in which the model was trained on them."""

    def __init__(self, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        """
        Compile the template, and find its markers.

        :raises ModelError: the template is missing, is no Jinja, or does not end.
        """
        self._settings = settings
        self._tokenizer = tokenizer
        self._renderer = Renderer(settings.chat_template)
        # One character cannot be told from text, so such a token is never structure
        self._control = {text: token for text, token in settings.control_tokens.items()
                         if len(text) > 1}
        self._control_pattern = re.compile(f'({_any_of(self._control)})')
        self._markers = set(self._control).union(self._role_markers())
        self._initials = {initial for marker in self._markers for case in (str.lower, str.upper)
                          for initial in case(marker[0])}

    def render(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        """
        Return the conversation as the template writes it, for people to read.

        :param answer: whether it ends where the model's answer begins.
        :raises PromptError: the template refuses the conversation, in its own words.
        :raises ModelError: the template itself is at fault.
        """
        text = self._render([asdict(message) for message in messages], answer)
        return self._begin(text)

    def encode(self, messages: Sequence[Message], *,
               is_cancelled: Callable[[], bool] = lambda: False) -> list[int]:
        """
        Return the tokens of the conversation; as `render`, with all contents as plain text.

        :param is_cancelled: called at each step of the template, and of the encoding of a long
            text, in this thread.
        :raises Cancelled: it returned true.
        """
        seam = self._unused_character(messages)
        seamed = [{'role': message.role, 'content': self._seam(message.content, seam)}
                  for message in messages]
        text = self._begin(self._render(seamed, True, is_cancelled))
        tokens: list[int] = []
        for piece in self._encode(text, seam):
            if is_cancelled():
                raise Cancelled
            tokens += piece
        return tokens

    def end_of_turn(self) -> int | None:
        """
        Return the control token that follows a message of the assistant, None where none does.

        It ends the turn or, in a template without such a token, begins the next one.
        """
        mark = chr(SEAMS[0])
        messages = [Message('user', '.'), Message('assistant', mark), Message('user', '.')]
        try:
            _, content, after = self.render(messages).rpartition(mark)
        except (ModelError, PromptError):
            return None
        control = self._control_pattern.match(after.lstrip())
        return self._control[control[0]] if content and control else None

    def _render(self, messages: list[dict[str, str]], answer: bool,
                is_cancelled: Callable[[], bool] = lambda: False) -> str:
        try:
            return self._renderer.render({
                'messages': messages, 'add_generation_prompt': answer, 'tools': None,
                'documents': None, 'bos_token': self._settings.bos_token,
                'eos_token': self._settings.eos_token}, is_cancelled)
        except PromptError as error:  # may quote a content with its seams
            text = ''.join(char for char in str(error) if ord(char) not in SEAMS)
            raise PromptError(text) from error

    def _begin(self, text: str) -> str:
        """Return a rendered text with the begin token in front, where the model wants one."""
        bos = self._settings.bos_token if self._settings.add_bos else ''
        return text if text.startswith(bos) else bos + text

    def _seam(self, content: str, seam: str) -> str:
        """Return a content with its seams; leading blanks stay outside, for templates to trim."""
        text = content.lstrip()
        if not text:
            return content
        blanks = content[:-len(text)]
        return blanks + seam + text.translate({ord(initial): initial + seam
                                               for initial in self._initials})

    def _encode(self, text: str, seam: str) -> Iterator[list[int]]:
        """Yield the tokens of a rendered text, those of each of its pieces by themselves."""
        for part in self._control_pattern.split(text):
            if part in self._control:
                yield [self._control[part]]
            else:
                yield from self._encode_between_controls(part, seam)

    def _encode_between_controls(self, text: str, seam: str) -> Iterator[list[int]]:
        start = 0
        for match in re.finditer(_any_of(self._markers, gap=f'{seam}*'), text):
            if seam in match[0]:
                yield from self._encode_plain(text[start:match.start()], seam, not start)
                yield self._tokenizer.spell(match[0].replace(seam, ''))
                start = match.end()
        yield from self._encode_plain(text[start:], seam, not start)

    def _encode_plain(self, text: str, seam: str, at_start: bool) -> Iterator[list[int]]:
        for piece in _pieces(text.replace(seam, '')):
            yield self._tokenizer.encode(piece, at_start=at_start)
            at_start = False

    def _role_markers(self) -> set[str]:
        """Return what separates speakers: in the template, and in what it puts together."""
        source = self._settings.chat_template
        return set(ROLE_MARKER.findall('\n'.join([source, *self._examples()])))

    def _examples(self) -> Iterator[str]:
        """Yield conversations with a system prompt and without, if the template takes them."""
        for roles in (ROLES, ROLES[1:]):
            try:
                yield self.render([Message(role, '.') for role in roles])
            except EndlessTemplate:
                raise
            except (ModelError, PromptError):
                continue

    def _unused_character(self, messages: Iterable[Message]) -> str:
        used = {self._settings.chat_template, *(message.content for message in messages)}
        for seam in map(chr, SEAMS):
            if not any(seam in text for text in used):
                return seam
        raise PromptError('the conversation uses every private-use Unicode character, and '
                          'one must be free; remove some of them')


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces that are not too long, cut between two words where that can be."""
    start = 0
    while len(text) - start > LONGEST_PIECE:
        most = start + LONGEST_PIECE
        between = BETWEEN_WORDS.search(text, most - LONGEST_PIECE // 4, most)
        end = between.start() if between else most
        yield text[start:end]
        start = end
    yield text[start:]


def _any_of(texts: Iterable[str], gap: str = '') -> str:
    """Return a pattern for the longest of some texts; `gap` may stand between its characters."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return '|'.join(gap.join(map(re.escape, text)) for text in longest_first) or NOTHING
