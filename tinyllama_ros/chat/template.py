"""
Encodes a conversation as token ids, by the model's own chat template.

Contents of messages are data: they never become a control token or a role marker, whatever text
they hold. To keep them apart, each content is marked before the template is rendered: an invisible
*seam* (a private-use character that occurs nowhere else) is put in front of the content and after
each of its characters with which a marker could begin. So a marker that begins in data has a seam
after its first character, and a marker that begins in structure and ends in data has a seam where
the data begins. In the rendered text

- a control token without a seam is structure, and only that is encoded as one token;
- a marker with a seam inside is data, at least in part: it is spelled with one character per
  token, which the model never saw as structure;
- everything else, structure and data together, is encoded as one text without the seams, so that
  its tokens are those the model was trained with.

This holds however a marker arises: it may stand in one content, be joined by the template from two
contents or from content and structure, or result from a filter that deletes characters or changes
their case. One limitation: a template that searches contents for a tag of its own does not find a
tag that begins like a marker.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from os.path import commonprefix
import re

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.message import Message, ROLES
from tinyllama_ros.chat.rendering import Cancelled, Renderer
from tinyllama_ros.chat.template_sizes import EndlessTemplate
from tinyllama_ros.chat.tokenizer import Tokenizer
from tinyllama_ros.errors import ModelError, PromptError

ROLE_MARKER = re.compile(r"""
      <[|｜][^<>|｜\s'"]+[|｜]>              # <|user|>
    | <</?\w+>> | </?\w+>                    # <<SYS>>  <s>  <start_of_turn>
    | \[/?[A-Z_]+\]                          # [INST]
    | (?<!\#)\#{2,}\ ?[A-Z]\w*(?:\ \w+)*:?          # ### Instruction:
    | \b(?i:system|user|human|assistant|bot):
    """, re.VERBOSE)
"""What separates the speakers in a template. These forms do not overlap or nest."""
NOTHING = '(?!)'
"""A pattern that matches nowhere."""
SEAMS = range(0xF0000, 0x10FFFE)
"""Code points for private use, which no script has."""
LONGEST_PIECE = 16_384
"""Characters that are encoded in one call, about 20 ms, in which no other thread runs."""
MOST_NESTED = 20
"""Groups of a pattern, which Python compiles by recursion."""
BETWEEN_WORDS = re.compile(r'(?<=[^\W\d_]) (?=[^\W\d_])')
"""A place that no token spans."""


class ChatTemplate:
    """Encodes conversations in the form in which the model was trained on them."""

    def __init__(self, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        """
        Compile the template, and find its markers.

        :raises ModelError: the template is missing, is not valid Jinja, or does not end.
        """
        self._settings = settings
        self._tokenizer = tokenizer
        self._renderer = Renderer(settings.chat_template)
        # A token of one character looks like text, so it is never taken for structure
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
        :raises PromptError: the template refuses the conversation; with its message.
        :raises ModelError: the template fails.
        """
        text = self._render([asdict(message) for message in messages], answer)
        return self._begin(text)

    def encode(self, messages: Sequence[Message], *,
               is_cancelled: Callable[[], bool] = lambda: False) -> list[int]:
        """
        Return the tokens of the rendered conversation, with all contents as plain text.

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
        Return the control token after a message of the assistant, None if there is none.

        It ends the turn; in a template without an end token, it begins the next turn.
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
        except PromptError as error:  # its message may quote a content with seams
            text = ''.join(char for char in str(error) if ord(char) not in SEAMS)
            raise PromptError(text) from error

    def _begin(self, text: str) -> str:
        """Return a rendered text with the begin token in front, if the model needs one."""
        bos = self._settings.bos_token if self._settings.add_bos else ''
        return text if text.startswith(bos) else bos + text

    def _seam(self, content: str, seam: str) -> str:
        """Return a content with seams, none in its leading blanks, so that templates trim them."""
        text = content.lstrip()
        if not text:
            return content
        blanks = content[:-len(text)]
        return blanks + seam + text.translate({ord(initial): initial + seam
                                               for initial in self._initials})

    def _encode(self, text: str, seam: str) -> Iterator[list[int]]:
        """Yield the tokens of a rendered text, piece by piece."""
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
        """Return the role markers in the template's source and in what it renders."""
        source = self._settings.chat_template
        return set(ROLE_MARKER.findall('\n'.join([source, *self._examples()])))

    def _examples(self) -> Iterator[str]:
        """Yield rendered conversations with and without a system prompt, if they are accepted."""
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
    """Yield a text in pieces of at most LONGEST_PIECE, cut between two words if possible."""
    start = 0
    while len(text) - start > LONGEST_PIECE:
        most = start + LONGEST_PIECE
        between = BETWEEN_WORDS.search(text, most - LONGEST_PIECE // 4, most)
        end = between.start() if between else most
        yield text[start:end]
        start = end
    yield text[start:]


def _any_of(texts: Iterable[str], gap: str = '') -> str:
    """Return a pattern that matches the longest of the texts; `gap` matches between characters."""
    return _alternatives(sorted(texts), gap) or NOTHING


def _alternatives(texts: list[str], gap: str, depth: int = 0) -> str:
    """Return the pattern of sorted texts; what several begin with is compared only once."""
    if depth == MOST_NESTED:
        return '|'.join(gap.join(map(re.escape, text)) for text in reversed(texts))
    patterns = []
    for _, group in groupby(texts, key=lambda text: text[0]):
        alike = list(group)
        prefix = commonprefix(alike)
        pattern = gap.join(map(re.escape, prefix))
        if longer := [text[len(prefix):] for text in alike if text != prefix]:
            pattern += f'(?:{gap}(?:{_alternatives(longer, gap, depth + 1)}))'
            pattern += '?' if prefix in alike else ''
        patterns.append(pattern)
    return '|'.join(patterns)
