"""Thousands of damaged chat templates, and some that were written to do harm."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
import random

from support.fuzz import fuzz
from support.tiny_tokenizers import BPE, bpe_file, CHATML, ZEPHYR
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import BpeTokenizer

TOKENIZER = BpeTokenizer(bpe_file(), BPE.control_tokens)
MESSAGES = [Message(role, 'Hello, robot.') for role in ('system', 'user', 'assistant', 'user')]
PIECES = ('{{ ', ' }}', '{% ', ' %}', '{#', '#}', 'for a in messages', 'endfor', 'if', 'endif',
          'else', 'set a', '= messages', "['content']", "'", '"', '(', ')', '|', 'tojson', 'loop',
          'generation', 'endgeneration', 'macro a()', 'endmacro', '.', '-', '0', '~', '\n', '\0',
          'raise_exception(messages)', '\U000f0000', '\ud800')
HARMFUL = {
    'hashes': '#' * 50_000, 'tags': '<|' * 25_000, 'brackets': '[INST' * 10_000,
    'slashes': '</' * 25_000, 'words': '## A' + ' a' * 25_000,
    'parentheses': '{{ ' + '(' * 5000 + ')' * 5000 + ' }}',
    'blocks': '{% if a %}' * 3000 + '{% endif %}' * 3000, 'signs': '{{ ' + '-' * 20_000 + '1 }}',
    'attributes': '{{ a' + '.a' * 20_000 + ' }}', 'variables': '{{ ' + 'a' * 50_000 + ' }}',
    'long message': "{{ raise_exception('no\n' * 20000) }}",
    'macros': '{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}'}


def mutations() -> Iterator[tuple[str, bytes]]:
    """Yield what was done to a template, and the template."""
    for label, source in HARMFUL.items():
        yield label, source.encode()
    chance = random.Random(12)
    for number in range(2000):
        source = chance.choice((CHATML, ZEPHYR))
        for _ in range(chance.randrange(1, 4)):
            start = chance.randrange(len(source))
            end = min(len(source), start + chance.choice((0, 0, 1, 2, 9)))
            source = source[:start] + chance.choice((*PIECES, '')) + source[end:]
        yield f'{number} {source!r}', source.encode('utf-8', 'surrogatepass')


def use(content: bytes, _: Path) -> None:
    """Encode a conversation by a template."""
    settings = replace(BPE, chat_template=content.decode('utf-8', 'surrogatepass'))
    ChatTemplate(settings, TOKENIZER).encode(MESSAGES)


def templates() -> None:
    """Fuzz chat templates."""
    fuzz(use, mutations())
