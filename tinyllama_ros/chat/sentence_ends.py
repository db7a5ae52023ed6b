"""
Decides whether a stop, a clause mark or a space ends a sentence, from the text around it.

Each decision looks at most LOOKBACK characters back and LOOKAHEAD forward, and is None while the
text that it needs has not arrived: so it does not depend on how the text was cut into pieces.

The words of the tables are written as dictionaries of the languages abbreviate them; which kinds
of full stop must not end a sentence: Kiss and Strunk, Unsupervised Multilingual Sentence Boundary
Detection, 2006 (abbreviations, initials, ordinal numbers, frequent sentence starters).
"""

import re
from typing import Literal

LOOKBACK = 40
LOOKAHEAD = 64

DIRECT_STOPS = '。！？；｡।॥؟۔։።፧။។៕๚๛܀‼⁇⁈⁉'
"""They end a sentence without a space after them."""
SPACED_STOPS = '.!?…．'
"""They end a sentence before a space, or before a script that is written without spaces."""
CLAUSE_MARKS = ',;:—–，、：،؛՝፣၊·'
DIRECT_CLAUSE_MARKS = '，、：'
"""They end a clause without a space after them."""
LINE_ENDS = '\n\r\v\f\x85\u2028\u2029'
THAI = '\u0e00-\u0eff'  # and Lao: no stops; a space ends a clause or a sentence
GREEK, ARMENIAN = '\u0370-\u03ff\u1f00-\u1fff', '\u0531-\u058a'
UNSPACED = '\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'  # Japanese and Chinese

STOP = (f'[{re.escape(DIRECT_STOPS + SPACED_STOPS)}]'
        f'|(?<=[{GREEK}])[;\u037e]|(?<=[{ARMENIAN}]):')
"""With the question mark of Greek, and the colon that stands for the Armenian full stop."""

_CLOSERS = r'["\'’”“‘»›)\]}*_`~」』】）》〉］｝〕]'
_STOPS = re.compile(f'(?:{STOP}){{1,{LOOKAHEAD}}}((?:{_CLOSERS}|\\[\\^?\\d{{1,3}}\\]){{0,16}})')
_CLAUSE = re.compile(f'[{CLAUSE_MARKS}]{_CLOSERS}{{0,16}}')
_SPACED_CLOSER = re.compile(rf'[^\S{LINE_ENDS}][»›](?=\s|$)')
_UNDECIDED = re.compile(rf'[^\S{LINE_ENDS}]+|\[\^?\d{{0,3}}')  # spaces, half a "[1]"
_PERHAPS_NUMBER = re.compile(rf'[^\S{LINE_ENDS}]*\d{{0,4}}')
_REST_OF_A_NUMBER = re.compile(r'\d|\s+\d{4}(?!\d)')  # a year
_LINE_END = re.compile(rf'[^\S{LINE_ENDS}]*[{LINE_ENDS}]')
_NEXT = re.compile(r'(\s*)((?:[–—-]\s?)?["\'“‘«‹„¿¡(\[{*_`~<（「『《【]{0,16})(\w*)')
_BEFORE = re.compile(r'[^\s()\[\]{}"\'“”‘’«»„*_`~,;:!?/（）「」。，、！？；：]+$')
_WORD_BEFORE = re.compile(r'(\w+|:|\d\.)\s+\S+$')
_LIST_NUMBER = re.compile(r'\W*(?:\d{1,3}|[^\W\d_]|[ivxIVX]{1,4})')
_ITEM = re.compile(r'\W*(\d{1,3})[.)]\s')
_NUMBER_BEFORE = re.compile(r'\s(\d{1,3})$')
_ORDINAL = re.compile(r'\d{1,3}(?:st|nd|rd|th)?')
_DOTTED = re.compile(r'(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}')  # U.S, Ph.D, т.е
_GOES_ON = '.,;:!?)]}&%…，、；：'
_UNSPACED = re.compile(f'[{UNSPACED}]')
_THAI = re.compile(f'[{THAI}]')

_NEVER_LAST = frozenset(
    'Dr Mr Mrs Ms Mx Prof Gen Col Maj Capt Lt Sgt Cpl Cmdr Adm Rev Hon Gov Sen Rep Messrs Mme '
    'Mlle Sra Srta Sig Dott Ing Avv Lic Dra Mgr Skt Hr Fr Dhr Mevr dr prof sr sra sig dott ing '
    'dhr mevr e.g i.e eg ie cf vs viz approx z.B d.h u.a bzw ca inkl vgl sog med d.w.z bijv p.ej '
    'p.ex np tzn tzw tj např napr tzv t.ex bl.a f.eks т.е т.к напр ул пгт проф акад д-р डॉ प्रो '
    'श्री EE'.split())
_SELDOM_LAST = frozenset(
    'St Mt Ft Ave Blvd Rd Jr Sr Inc Ltd Co Corp Bros al dept est UU Ud Uds Ph Esq ex ej es Chr '
    'гг'.split())
_BEFORE_A_NUMBER = frozenset(
    'No no Nos Nr nr Nº N° № p pp S Fig fig Figs Eq Vol vol Ch ch Sec sec Art art Abs Abb Bd Kap '
    'Tab Str Tel Ext Chap cap núm pág párr стр рис кв Кв '
    'Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec JAN FEB MAR APR JUN JUL AUG SEP OCT NOV DEC '
    'Mär Okt Dez Ene Abr Ago Dic'.split())
_STARTERS = frozenset(
    "The A An This That These Those It It's He She We They You I My Your His Her Its Our Their "
    'There Here In On At If When While What Who Why How Where Which And But Or So Yet For As '
    'After Before Since Because Although Though Then Now Today Also However Moreover Finally '
    'First Next Let Please Do Does Did Is Are Was Were Can Could Would Should To With From By Not '
    'No Yes Some Many Most All Both Each Every Another Once Until During '
    'Der Die Das Es Er Sie Wir Ich Ihr Ein Eine Im Am Und Aber Oder Dann Danach Dort Hier Was Wer '
    'Wie Wo Warum Wenn Auch Mit Von Zu Bei Nach Seine Seit '
    'Le La Les Il Elle Ils Elles Nous Vous Je Tu On Un Une Ce Cette Ces C Et Mais Ou Dans Pour '
    'El Los Las Una Yo Ella Ellos En Pero Y Lo Se Con Por Para Gli Lui Lei Noi Ma E O Os As '
    'Ele Ela Mas Um Uma Het De Een Ik Hij Zij Wij Maar Dit Dat '
    'Det Den Jeg Han Hun Vi Hvad Vad Jag Hon Nej Ja '
    'Он Она Оно Они Мы Вы Я Это Этот В На И Но А Потом Затем Там Здесь Как Что Когда Если'.split())
_ORDINAL_AFTER = frozenset(
    'am der dem den des die das im vom zum zur beim ab bis seit und oder jeder jede jedes jeden '
    'dieser ihr ihren sein seinen mein meinen : 0. 1. 2. 3. 4. 5. 6. 7. 8. 9.'.split())
_MONTHS = frozenset(
    'Januar Jänner Februar Feber März April Mai Juni Juli August September Oktober November '
    'Dezember Jan Feb Mär Apr Jun Jul Aug Sep Sept Okt Oct Nov Dez Dec January February March May '
    'June July October December'.split())


def sentence_end(text: str, at: int, start: int, is_final: bool) -> int | None:
    """
    Return where the sentence ends that the stop at a position may end.

    :param at: index of the stop.
    :param start: index where the sentence begins.
    :param is_final: nothing will follow the text.
    :return: the index after the stop and what closes behind it, or before the number of the next
        item of a list; 0: it ends no sentence; None: more text is needed.
    """
    stops = _STOPS.match(text, at)
    assert stops is not None, text[at:at + 1]
    end = stops.end()
    following = text[end:end + LOOKAHEAD]
    needs_more = not is_final and len(following) < LOOKAHEAD
    if closer := _SPACED_CLOSER.match(following):  # French: "Oui. »"
        if needs_more and closer.end() == len(following):
            return None
        end, following = end + closer.end(), following[closer.end():]
    if not following or needs_more and _UNDECIDED.fullmatch(following):
        return None if needs_more else end
    if text[at:end] == '.' and following[0].isspace() and (item := _next_item(text, at, start)):
        return item
    ends: bool | None = True
    if not following[0].isspace():
        ends = _ends_before_a_letter(text, stops, start, following)
    elif text[stops.start(1) - 1] in SPACED_STOPS:
        ends = _ends_before_space(text, stops, start, following, needs_more)
    return None if ends is None else end if ends else 0


def _next_item(text: str, at: int, start: int) -> int:
    """Return where the second item begins in "1. Red 2. Blue", at whose number a stop stands."""
    item = _ITEM.match(text, start, at)
    number = _NUMBER_BEFORE.search(text[max(start, at - LOOKBACK):at])
    is_next = item and number and int(number[1]) == int(item[1]) + 1
    return at - len(number[1]) if number and is_next else 0


def clause_end(text: str, at: int, is_final: bool) -> int | None:
    """
    Return where the clause ends that the mark at a position may end; see sentence_end.

    A number goes on after the mark in "22,1", "10:30" and "May 3, 2024": there is no end.
    """
    mark = _CLAUSE.match(text, at)
    assert mark is not None, text[at:at + 1]
    following = text[mark.end():mark.end() + LOOKAHEAD]
    needs_more = not is_final and len(following) < LOOKAHEAD
    if needs_more and _PERHAPS_NUMBER.fullmatch(following):
        return None
    is_spaced = following[:1].isspace() or text[at] in DIRECT_CLAUSE_MARKS
    is_number = text[max(0, at - LOOKBACK):at].rstrip()[-1:].isdigit()
    goes_on = is_number and _REST_OF_A_NUMBER.match(following)
    return 0 if goes_on or not is_spaced or _LINE_END.match(following) else mark.end()


def is_small(word: str) -> bool:
    """Return whether a word begins in lower case; Georgian has no other."""
    return word[:1].islower() and not '\u10d0' <= word[0] <= '\u10ff'


def _ends_before_a_letter(text: str, stops: re.Match[str], start: int, following: str) -> bool:
    """Return whether a stop ends a sentence where what follows stands right behind it."""
    at = stops.start()
    if text[stops.start(1) - 1] not in DIRECT_STOPS:
        is_number = text[max(0, at - 1):at].isdigit()
        return not (stops[1] or is_number) and bool(_UNSPACED.match(following))
    is_title = text.count('《', start, at) > text.count('》', start, at)
    is_quoted = stops[1] and following[0].isalnum() and text[start] not in '（('
    return not (is_title or is_quoted or following[0] in _GOES_ON)


def _ends_before_space(text: str, stops: re.Match[str], start: int, following: str,
                       needs_more: bool) -> bool | None:
    """Return whether a stop before a space ends a sentence, by the word that follows."""
    found = _NEXT.match(following)
    assert found is not None  # every part of it may be empty
    space, _, word = found.groups()
    mark = following[found.end():found.end() + 1]
    is_open = needs_more and not mark  # the word may be longer
    is_dot = text[stops.start():stops.start(1)] == '.'
    if any(character in LINE_ENDS for character in space):
        return not is_dot or _end_by(text, stops.start(), start, 'x') == 'stop'
    if not word:
        return None if is_open else not mark or mark not in _GOES_ON
    if is_small(word):  # a sentence may begin with "iPhone", though
        return None if is_open and len(word) < 2 else word[1:2].isupper()
    by = _end_by(text, stops.start(), start, word) if is_dot else 'stop'
    if by in ('starter', 'no month') and is_open:
        return None
    if by == 'starter':  # and no initial: J. A. Smith
        return word in _STARTERS and (len(word) > 1 or mark != '.')
    return by == 'stop' or by == 'no month' and word not in _MONTHS


def _end_by(text: str, at: int, start: int, word: str
            ) -> Literal['nothing', 'stop', 'starter', 'no month']:
    """
    Return by what a sentence ends at a full stop: the stop itself or which word after it.

    :param word: what follows, as far as it came: a capital, a number, or a caseless letter.
    """
    before = text[max(start, at - LOOKBACK):at]
    found = _BEFORE.search(before)
    last = found[0] if found else ''
    if ({last, last[:1].lower() + last[1:]} & _NEVER_LAST or _THAI.match(last[-1:])
            or _LIST_NUMBER.fullmatch(before)):
        return 'nothing'
    if last in _BEFORE_A_NUMBER:
        return 'nothing' if word[0].isdigit() else 'stop'
    if _ORDINAL.fullmatch(last):
        previous = _WORD_BEFORE.search(before)
        is_ordinal = previous is not None and previous[1].lower() in _ORDINAL_AFTER
        return 'starter' if is_ordinal else 'no month'
    if len(last) == 1 and last.isalpha() or last in _SELDOM_LAST or _DOTTED.fullmatch(last):
        return 'starter'
    return 'stop'
