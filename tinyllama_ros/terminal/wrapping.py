"""Breaks a stream of text into lines that fit a terminal."""

from wcwidth import wcswidth, wcwidth

TAB_STOP = 8
LONGEST_WORD = 200
"""Characters; those without a width could go on for ever."""
LEAST_WIDTH = 4
"""Cells; a narrower terminal breaks the lines itself."""
JOINER = '\u200d'
SKIN_TONES = range(0x1F3FB, 0x1F400)
# No line begins with CLOSING or ends with OPENING: the common part of JIS X 4051.
CLOSING = frozenset('，。、．！？：；）］｝」』】〉》〕’”…‥—～·ー々,.!?:;)]}')
OPENING = frozenset('（［｛「『【〈《〔‘“([{')


class LineWrapper:
    """
    Breaks a stream of text into lines of a given width, between words and wide characters.

    An unfinished word is kept back, so that the cursor never has to move back. The text must not
    hold control characters other than newline and tab.
    """

    def __init__(self) -> None:
        self._column = 0
        self._gap = ''  # the spaces before the word; a line break takes their place
        self._word = ''

    def push(self, text: str, width: int) -> str:
        """
        Return what can be written now.

        :param width: cells of the terminal; it may change from call to call.
        """
        width = max(width, LEAST_WIDTH)
        if self._column > width:  # the terminal became narrower and broke the line itself
            self._column = (self._column - 1) % width + 1
        return ''.join(self._add(character, width) for character in text)

    def finish(self, width: int) -> str:
        """Return the text that was kept back, and begin a new line."""
        rest = self._place(max(width, LEAST_WIDTH))
        self._column, self._gap = 0, ''
        return rest

    def _add(self, character: str, width: int) -> str:
        if character == '\n':
            placed = self._place(width)
            self._column, self._gap = 0, ''
            return placed + '\n'
        if character in ' \t':
            placed = self._place(width)
            reached = self._column + len(self._gap)
            if len(self._gap) <= width:  # a longer one becomes a line break anyway
                self._gap += ' ' if character == ' ' else ' ' * (TAB_STOP - reached % TAB_STOP)
            return placed
        is_full = len(self._word) > LONGEST_WORD or cells(self._word + character) > width
        placed = self._place(width) if is_full or can_break(self._word, character) else ''
        self._word += character
        return placed

    def _place(self, width: int) -> str:
        """Return the word, preceded by the spaces or the line break that stand before it."""
        word, gap = self._word, self._gap
        if not word:
            return ''
        self._word = self._gap = ''
        if self._column + len(gap) + cells(word) > width:
            gap = '\n' if self._column else ''
            self._column = 0
        else:
            self._column += len(gap)
        self._column += cells(word)
        return gap + word


def wrapped(text: str, width: int) -> str:
    """Return a whole text in lines of at most `width` cells."""
    wrapper = LineWrapper()
    return wrapper.push(text, width) + wrapper.finish(width)


def cells(text: str) -> int:
    """Return how many columns a text takes on a terminal; it holds no control characters."""
    return max(0, int(wcswidth(text)))


def can_break(word: str, character: str) -> bool:
    """Return whether a line may end between a word and the next character; no spaces."""
    if not word or word[-1] in OPENING or word[-1] == JOINER:
        return False
    if character in CLOSING or ord(character) in SKIN_TONES or wcwidth(character) <= 0:
        return False
    return cells(word[-1]) == 2 or cells(character) == 2
