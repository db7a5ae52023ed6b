"""
Turns a sentence or a line of an answer into the text that a voice says.

The named rules of RULES remove or replace markup, and keep the content; everything else is said as
written, so that products, list numbers and code are kept. The speech synthesiser, which knows the
language, decides how a sign ("*", "%") is pronounced.
"""

from collections.abc import Callable
import html
import re
import unicodedata

_EMOJI = ('\u231a\u231b\u23cf\u23e9-\u23fa\u2500-\u266c\u2670-\u2775\u2794-\u27bf\u2b00-\u2bff'
          '\U0001f000-\U0001faff')
_ARROW = '\u2190-\u21ff\u27f5-\u27ff\u2794-\u27be'
_TAGS = 'a|b|center|code|del|div|em|h[1-6]|i|ins|kbd|li|ol|p|pre|small|span|strong|su[bp]|u|ul'
_CODE = re.compile(r'(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)')
_KEPT = '\ue000-\uf8ff'  # private use: one stands for each code span while the rules are applied
_UNSPOKEN = frozenset(('Cc', 'Cf', 'Cn', 'Co', 'Cs'))
_JOINERS = '\u200c\u200d'  # they shape letters in Persian and Hindi
_SPOKEN_SIGNS = '%&@#*/\\'


def _cells(row: re.Match[str]) -> str:
    cells = (cell.strip() for cell in re.split(r'(?<!\\)\|', row[0]))
    return ', '.join(cell for cell in cells if cell and not re.fullmatch(r':?-+:?', cell))


RULES: dict[str, tuple[str, str | Callable[[re.Match[str]], str]]] = {
    # What a line is, at the begin of a piece
    'fence of a code block': (r'^\s*(?:`{3,}|~{3,})[^`]*$', ''),
    'quoted line': (r'^\s*(?:>\s*)+', ''),
    'table row': (r'^\s*\|.*\|\s*$|^\s*\|\s.*$|^.*\s\|\s*$', _cells),
    'line across the page': (r'^\s*(?:[-*_=]\s*){3,}$', ''),
    'bullet': (rf'^\s*[-*+•◦▪‣–{_ARROW}]\s+(?:\[[ xX]\]\s+)?', ''),
    'heading': (r'^\s*#{1,6}\s+|(?<=\S)\s+#+\s*$', ''),
    'target of a link name': (r'^\s*\[[^\]]+\]:\s+\S+.*$', ''),
    # What stands in a line
    'link': (r'!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+"[^"]*")?\)',
             r'\1'),
    'link by name': (r'(?<![\w\]])\[([^\[\]]+)\]\[[^\[\]]*\]', r'\1'),
    'footnote': (r'\[\^[^\[\]]+\]', ''),
    'address': (r'(?a:<?(?:https?|ftp)://(?:www\.)?(\w(?:[\w.-]*\w)?(?::\d+)?)'
                r'(?:[/?#](?:[!-;=?-~]*[\w/=&#%~+-])?)?>?|<?mailto:([\w.+-]+@[\w.-]*\w)>?)',
                lambda address: address[1] or address[2]),
    'line break': (r'<br\s*/?>', ' '),
    'tag': (rf'</?(?:{_TAGS})(?:\s[^<>]*)?>|<!--.*?-->', ''),
    'bounds of a formula': (r'\$\$|\\[()\[\]]', ''),
    # Asterisks between letters or digits, or between spaces, are products
    'strong': (r'(?a:(?<![\w)*\\])(\*{2,3})(?=[^\s*])((?:[^*]|\*(?!\*))+?)(?<=[^\s\\])\1'
               r'(?![\w(*]))', r'\2'),
    'emphasis': (r'(?a:(?<![\w)*\\])\*(?=[^\s*])([^*]+?)(?<=[^\s\\])\*(?![\w(*]))', r'\1'),
    'half of strong, the rest in another piece': (
        r'(?<![\w)*\\])(?<!\d )\*\*(?=[^\s*])|(?<=[^\s*\\])\*\*(?![\w(*])', ''),
    'half of emphasis': (r'^\*(?=[^\s*])|(?<=[^\s*\\])\*$', ''),
    'underlined': (r'(?<![\w\\])(_{1,3})(?=[^\s_])(.+?)(?<=[^\s_\\])\1(?!\w)', r'\2'),
    'half of underlined': (r'^_{1,3}(?=[^\W_])|(?<=[^\s_\\])_{1,3}$', ''),
    'struck out': (r'~~', ''),
    'tick': (r'`', ''),
    'escape': (r'\\([*_#`~\[\]>|+.!\\-])', r'\1'),
    'entity': (r'&(?:#\d+|#x[\da-fA-F]+|[a-zA-Z]\w*);', lambda entity: html.unescape(entity[0])),
    'arrow': (rf'\s*[{_ARROW}]\ufe0f?\s*|\s+[-=]+>\s+', ', '),
    'dash': (r'(?<=\s)-{2,3}(?=\s)', '—'),
    'emoji before a stop': (rf'\s*(?:[{_EMOJI}][\ufe0f\u200d]*)+(?=[\s.,;:!?…)]|$)', ''),
    'emoji': (rf'(?:[{_EMOJI}][\ufe0f\u200d]*)+', ' '),
    'look of a character': (r'[\ufe0e\ufe0f\u20e3]', ''),
    'run of one sign': (r'([^\w\s.!?…。！？]|_)\1{3,}', ' '),
    'space': (r'\s+', ' '),
}
"""By name: what is dropped or replaced, in this order, and by what."""

_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in RULES.values()]


def spoken(text: str, is_code: bool = False) -> str:
    """
    Return what a voice says of a text; '' if it has no sound, such as a single bracket.

    :param is_code: it is a line of a code block, which is not changed.
    """
    text = ''.join(character for character in text if _is_spoken(character))
    if not is_code:
        text = _without_markup(text)
    return text.strip() if any(map(_has_a_sound, text)) else ''


def _without_markup(text: str) -> str:
    code: list[str] = []

    def keep(span: re.Match[str]) -> str:
        code.append(span[2].strip())
        return chr(0xe000 + len(code) - 1)

    text = _CODE.sub(keep, text)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return re.sub(f'[{_KEPT}]', lambda kept: code[ord(kept[0]) - 0xe000], text)


def _is_spoken(character: str) -> bool:
    """Return whether a character is text: no control, no private use, nothing that was lost."""
    return (character in _JOINERS or character.isspace() or character != '\ufffd'
            and unicodedata.category(character) not in _UNSPOKEN)


def _has_a_sound(character: str) -> bool:
    return (character.isalnum() or character in _SPOKEN_SIGNS
            or unicodedata.category(character)[0] == 'S')
