"""
Cuts the text of an answer into the pieces that a voice says one after the other.

A piece is a sentence, a line, or a line of a code block. The first piece of an answer may end at
a clause, so that speech starts soon; text without any end is cut at a clause or at a space.
The pieces do not depend on how the text was cut into deltas, and the work is linear in its length.
Libraries were judged on the 249 cases of test/data/sentences.txt (2026-11-28): right are 142 with
sentence-stream 1.3.0, 164 with stream2sentence 1.1.0, 179 with pysbd 0.3.4 (no stream), 249 here.
"""

import re
from typing import NamedTuple

from tinyllama_ros.chat.sentence_ends import (
    clause_end,
    CLAUSE_MARKS,
    is_small,
    LINE_ENDS,
    LOOKAHEAD,
    sentence_end,
    STOP,
    THAI,
    UNSPACED,
)

FIRST_CLAUSE = 10
"""Letters that the first clause has at least; a Chinese or Japanese one counts as three."""
THAI_CLAUSE = 30
"""Characters after which a space ends a piece of Thai or Lao."""
LONGEST = 300
"""Characters of a piece at most."""
WRAPPED = 60
"""Characters of a line after which the next one, in lower case, belongs to the same sentence."""

_SENTENCE = re.compile(f'[{LINE_ENDS}]|(?:{STOP}){{1,{LOOKAHEAD}}}|(?<=[{THAI}]) ')
_CLAUSE = re.compile(f'[{CLAUSE_MARKS}]|{_SENTENCE.pattern}')
_LINE = re.compile(f'[{LINE_ENDS}]')
_STOP = re.compile(STOP)
_FENCE = re.compile(r'(`{3,}|~{3,})[^`]*$')
_THAI = re.compile(f'[{THAI}]')
_UNSPACED = re.compile(f'[{UNSPACED}]')
_LAST_CLAUSE = re.compile(rf'.*(?<!\d)[{CLAUSE_MARKS}](?=[\s{UNSPACED}])', re.DOTALL)
_LAST_SPACE = re.compile(r'.*(?=\s)', re.DOTALL)
# No vowel sign, nothing joined, and not between two characters of an English word or a number
_LAST_LETTER = re.compile('.*(?<!\u200d)(?=\\w)(?:(?<![!-~])|(?![!-~]))', re.DOTALL)


class Piece(NamedTuple):
    """What is said at once, as it stands in the text."""

    text: str
    is_code: bool = False
    """A line of a code block."""


class SentenceStream:
    """Yields the pieces of one answer, each as soon as the text after it shows where it ends."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._text = ''
        self._start = 0  # where the piece begins
        self._next = 0  # where to look for an end
        self._line = 0  # where the line begins; below 0 where that is not kept any more
        self._at_line_start = True  # nothing of the line has been cut off
        self._fence = ''  # what closes the code block
        self._is_first = True

    def push(self, text: str) -> list[Piece]:
        """Return the pieces that the text completes."""
        self._text += text
        pieces = self._scan(is_final=False)
        self._text = self._text[self._start:]
        self._next -= self._start
        self._line -= self._start
        self._start = 0
        return pieces

    def finish(self) -> list[Piece]:
        """Return the pieces that are left; begin a new answer."""
        pieces = self._scan(is_final=True)
        self._cut(len(self._text), pieces)
        self._begin()
        return pieces

    def _scan(self, is_final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            self._skip_space()
            limit = self._start + LONGEST
            pattern = _LINE if self._fence else _CLAUSE if self._is_first else _SENTENCE
            mark = pattern.search(self._text, self._next, limit)
            if mark is None and len(self._text) <= limit:
                self._next = len(self._text)
                return pieces
            end = self._longest() if mark is None else self._end(mark.start(), is_final)
            if end is None:
                return pieces
            if end:
                self._cut(end, pieces)
            elif mark is not None:
                self._next = mark.end()

    def _skip_space(self) -> None:
        while self._text[self._start:self._start + 1].isspace():
            self._start += 1
            if self._text[self._start - 1] in LINE_ENDS:
                self._line, self._at_line_start = self._start, True
        self._next = max(self._next, self._start)

    def _end(self, at: int, is_final: bool) -> int | None:
        """Return where the piece ends that the mark may end; 0: nowhere; None: not known yet."""
        if self._text[at] in LINE_ENDS:
            return self._line_end(at, is_final)
        if self._text[at] == ' ':
            return self._thai_end(at, is_final)
        if _STOP.match(self._text, at):
            return sentence_end(self._text, at, self._start, is_final)
        end = clause_end(self._text, at, is_final)
        return end and end * self._is_clause(self._text[self._start:end])

    def _is_clause(self, text: str) -> bool:
        """Return whether a text is long enough to be said first, and all brackets are closed."""
        letters = len(text) + 2 * len(_UNSPACED.findall(text))
        is_open = (text.count('(') > text.count(')') or text.count('[') > text.count(']')
                   or text.count('`') % 2)
        return letters >= FIRST_CLAUSE and not is_open

    def _line_end(self, at: int, is_final: bool) -> int | None:
        if at - self._line >= WRAPPED and not self._fence:
            following = self._text[at + 1:at + 1 + LOOKAHEAD]
            word = following.lstrip(' \t')
            if not word and not is_final and len(following) < LOOKAHEAD:
                return None
            if is_small(word):
                self._line = at + 1
                return 0
        return at

    def _thai_end(self, at: int, is_final: bool) -> int | None:
        following = self._text[at + 1:at + 2]
        if not following and not is_final:
            return None
        shortest = FIRST_CLAUSE if self._is_first else THAI_CLAUSE
        return at if at - self._start >= shortest and _THAI.match(following) else 0

    def _longest(self) -> int:
        """Return where to cut a piece that has no end: at a clause, a space, or in between."""
        half, limit = self._start + LONGEST // 2, self._start + LONGEST
        for last in (_LAST_CLAUSE, _LAST_SPACE, _LAST_LETTER):
            if found := last.match(self._text, half, limit):
                return found.end()
        return limit

    def _cut(self, end: int, pieces: list[Piece]) -> None:
        text = self._text[self._start:end].strip()
        is_code = bool(self._fence)
        is_line = self._at_line_start and (self._text[end:end + 1] or '\n') in LINE_ENDS
        fence = _FENCE.match(text) if is_line else None
        if fence and not self._fence:
            self._fence = fence[1]
        elif fence and text.startswith(self._fence) and not text.strip(self._fence):
            self._fence, is_code = '', False
        elif text:
            self._is_first = False
        if text:
            pieces.append(Piece(text, is_code))
        self._start = self._next = end
        self._at_line_start = False
