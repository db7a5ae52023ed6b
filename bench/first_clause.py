"""
After how many tokens the first ~/sentence leaves, over the reference answers of the default model.

Replays each answer of test/data/smollm2-135m-golden.json token by token. "its tokens" are those
of which what is said consists; the rest were needed to see that it ends. An answer whose first
sentence and first clause are longer than eight tokens cannot be spoken sooner: its text does not
allow it, and the table says so.

    .venv/bin/python bench/first_clause.py [ARTIFACT]
"""

import argparse
import json
from pathlib import Path
import sys

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.chat.sentences import SentenceStream
from tinyllama_ros.chat.spoken_text import spoken
from tinyllama_ros.chat.streams import TextStream
from tinyllama_ros.chat.tokenizer import open_tokenizer, Tokenizer

ANSWERS = Path(__file__).parents[1] / 'test' / 'data' / 'smollm2-135m-golden.json'
MOST = 8
"""Tokens after which the first sentence has left, where the text allows it."""


def first_sentence(tokens: list[int], tokenizer: Tokenizer) -> tuple[str, int, int]:
    """Return what is said first, the tokens that it consists of, and those after which it left."""
    stream, sentences = TextStream(tokenizer), SentenceStream()
    ends: list[int] = []  # of the text, after each token
    text = ''
    for number, token in enumerate(tokens, 1):
        delta = stream.push(token)
        text += delta
        ends.append(len(text))
        for piece in sentences.push(delta):
            if said := spoken(*piece):
                end = text.index(piece.text) + len(piece.text)
                return said, next(own for own, at in enumerate(ends, 1) if at >= end), number
    said = next(filter(None, (spoken(*piece) for piece in sentences.finish())), '')
    return said, len(tokens), len(tokens)


def main() -> int:
    """Replay each answer; return 1 where a first sentence left later than its text allows."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('artifact', nargs='?', default='smollm2-135m-instruct-w8a8',
                        help='whose tokenizer is used, name or folder (default: %(default)s)')
    artifact = Artifact.open(find_artifact(parser.parse_args().artifact))
    tokenizer = open_tokenizer(artifact)
    late = 0
    print(f'{"left after":>10} {"its tokens":>10}   said first')
    for case in json.loads(ANSWERS.read_text(encoding='utf-8'))['cases']:
        said, own, left = first_sentence(case['greedy_ids'], tokenizer)
        is_long = own >= MOST  # one more token shows that it has ended
        late += left > MOST and not is_long
        print(f'{left:10} {own:10}   {said}{" (the text allows no sooner)" if is_long else ""}')
    print(f'later than {MOST} tokens where the text allows it: {late}')
    return 1 if late else 0


if __name__ == '__main__':
    sys.exit(main())
