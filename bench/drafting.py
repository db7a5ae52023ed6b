"""
What drafting from the prompt gains, and what it costs where there is nothing to draft.

Ten prompts ask to repeat, correct or quote a text that they give, in words that the default model
mostly understands; ten do not. Each is answered greedily with and without drafting, in turn, in
one process, so that a busy neighbour favours neither. A speed is that of the tokens after the
first; a ratio is of two answers of one round. Answers are compared token by token: one that
differs is said so, with the place (without our kernels a pass of one token may round otherwise
than one of several).

    .venv/bin/python bench/drafting.py [ARTIFACT] [--rounds 3] [--tokens 160]
"""

import argparse
from dataclasses import dataclass
import os
from pathlib import Path
from statistics import geometric_mean, mean, median
import sys
import time

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.chat.conversation import Conversation, open_conversation
from tinyllama_ros.chat.events import ChatOptions, TextDelta
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.host import physical_cores, prefer_plain_attention
from tinyllama_ros.engine.sampling import SamplingOptions

STORY = (
    'The lighthouse on the northern cliff was built in 1874. Its lamp was lit by the keeper every '
    'evening until the year 1962, when an electric light took its place. Today the tower is a '
    'small museum, and the last keeper still climbs its stairs every Sunday.')
REPORT = (
    'Battery at 82 percent. Left wheel motor at 41 degrees, right wheel motor at 43 degrees. The '
    'lidar lost two scans between the lift and room 214. The gripper was closed for 12 seconds.')
STEPS = (
    '1. Switch the charger off.\n2. Open the cover with the small key.\n3. Take out both fuses.\n'
    '4. Wait for ten seconds.\n5. Put in the new fuses and close the cover.')
LETTER = (
    'Dear Maria, the parcel that you sent on Monday arrived this morning. The box was wet, but '
    'the camera and the two lenses inside are dry. I will bring them to the workshop on Friday.')
SETTINGS = (
    'robot_name: kitchen_helper\nmax_speed: 0.8\ncamera:\n  width: 640\n  height: 480\n'
    '  frames_per_second: 15\nbattery:\n  warn_below: 20\n  stop_below: 8')
MISSPELT = (
    'The garden behind the house are very large. Every morning the old man walk to the pond and '
    'feed the fish. He have done so for twenty years, and the fish knows him well.')

GIVEN = {
    'repeat a story': f'Repeat this text word for word:\n\n{STORY}',
    'repeat a report': f'Repeat the following report exactly, and nothing else.\n\n{REPORT}',
    'repeat steps': f'Write these steps again, exactly as they are:\n\n{STEPS}',
    'repeat a letter': f'Copy this letter word for word:\n\n{LETTER}',
    'repeat settings': f'Repeat these settings without any change:\n\n{SETTINGS}',
    'correct grammar': f'Correct the grammar of this text:\n\n{MISSPELT}',
    'correct a letter': 'Correct the spelling mistakes in this letter:\n\n'
                        + LETTER.replace('parcel', 'parcle').replace('morning', 'mornnig'),
    'correct steps': 'Correct the spelling in these steps and write all of them:\n\n'
                     + STEPS.replace('charger', 'chargre').replace('cover', 'covver'),
    'quote a story': f'Text: "{STORY}"\n\nQuote the text word for word.',
    'quote a report': f'{REPORT}\n\nQuote what the report above says, word for word.'}
FREE = {
    'story': 'Tell me a story about a fox who wanted to see the sea.',
    'explain rain': 'Why does it rain more in the mountains?',
    'robots': 'What can a robot do in a hospital?',
    'recipe': 'How do I cook a soup from potatoes and leeks?',
    'advice': 'I cannot sleep at night. What should I do?',
    'history': 'Who invented the printing press, and what did it change?',
    'poem': 'Write a poem about winter evenings.',
    'travel': 'What would you show a visitor on one day in Paris?',
    'science': 'Explain how a battery stores energy.',
    'opinion': 'Is it better to live in a city or in the countryside?'}


@dataclass(frozen=True)
class Run:
    """One answer."""

    tokens: list[int]
    tokens_per_second: float


class Bench:
    """One loaded artifact, asked again and again from an empty cache."""

    def __init__(self, artifact: Artifact, threads: int, tokens: int) -> None:
        self._engine = Engine(lambda: open_backend('onnx', artifact, threads=threads))
        self._conversation: Conversation = open_conversation(artifact, self._engine)
        self._max_tokens = tokens

    def answer(self, prompt: str, drafting: bool) -> Run:
        """Return the answer to a prompt."""
        self._engine.clear()
        self._conversation.reset()
        options = ChatOptions(max_tokens=self._max_tokens, answer_room=self._max_tokens,
                              sampling=SamplingOptions(temperature=0), drafting=drafting)
        pieces_s = []
        fill = 0
        for event in self._conversation.answer(prompt, options):
            if isinstance(event, TextDelta):
                pieces_s.append(time.perf_counter())
                fill = fill or self._engine.cache.fill
        assert len(pieces_s) > 2, f'the answer to {prompt!r} is too short to measure'
        return Run(self._engine.cache.tokens[fill:],
                   (len(pieces_s) - 1) / (pieces_s[-1] - pieces_s[0]))

    def compare(self, prompts: dict[str, str], rounds: int) -> list[float]:
        """Print a row for each prompt; return the median ratios."""
        print(f'{"":18}{"tokens":>7}{"plain":>9}{"drafting":>9}   ratio (lowest to highest)')
        ratios = []
        for name, prompt in prompts.items():
            runs = [[self.answer(prompt, drafting) for drafting in order]
                    for order in rounds * [(False, True)]]
            ratio = [b.tokens_per_second / a.tokens_per_second for a, b in runs]
            plain, drafted = runs[0]
            print(f'{name:18}{len(drafted.tokens):7}'
                  f'{median(a.tokens_per_second for a, _ in runs):9.1f}'
                  f'{median(b.tokens_per_second for _, b in runs):9.1f}   {median(ratio):.2f} '
                  f'({min(ratio):.2f} to {max(ratio):.2f}){difference(plain, drafted)}')
            ratios.append(median(ratio))
        return ratios


def difference(plain: Run, drafted: Run) -> str:
    """Return where two answers differ, in words; nothing where they do not."""
    if plain.tokens == drafted.tokens:
        return ''
    place = len(os.path.commonprefix([plain.tokens, drafted.tokens]))
    return f'  differs from token {place}'


def main() -> int:
    """Compare both sets of prompts."""
    prefer_plain_attention()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('artifact', nargs='?', default='smollm2-135m-instruct-w8a8',
                        help='name or folder (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='rounds (default: %(default)s)')
    parser.add_argument('--tokens', type=int, default=160,
                        help='tokens of an answer at most (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=physical_cores(),
                        help='threads (default: the physical cores, %(default)s)')
    arguments = parser.parse_args()
    path = Path(arguments.artifact)
    artifact = Artifact.open(path if path.is_dir() else find_artifact(arguments.artifact))
    bench = Bench(artifact, arguments.threads, arguments.tokens)
    bench.answer('Hello', drafting=True)  # warms up
    for title, prompts in (('a text is given', GIVEN), ('no text is given', FREE)):
        print(f'{title}: {arguments.rounds} rounds, {arguments.threads} threads, load '
              f'{os.getloadavg()[0]:.1f}')
        ratios = bench.compare(prompts, arguments.rounds)
        print(f'{"mean":46}{mean(ratios):.2f} (geometric {geometric_mean(ratios):.2f})\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
