"""
The node with a parrot for a model: it repeats the prompt, and all else is the real thing.

'for ever' in the prompt makes it go on until it is stopped, 'full' clears its memory on the way,
and 'break down' makes it fail.
"""

from collections.abc import Iterator
import itertools
import re
import sys
import time

from tinyllama_ros.chat.events import (
    Answer,
    CacheReset,
    ChatOptions,
    PrefillProgress,
    TextDelta,
    TurnEvent,
)
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.errors import BackendError
from tinyllama_ros.ros import node

PACE_S = 0.005
"""Of a token of a small model; time to stop it in between."""


class Parrot:
    """A conversation whose cache has a slot for each word."""

    capacity = 1024

    def __init__(self) -> None:
        self.fill = 0

    def answer(self, prompt: str, _: ChatOptions) -> Iterator[TurnEvent]:
        words = re.findall(r'\s*\S+|\s+', prompt)
        self.fill += len(words)
        yield PrefillProgress(len(words))
        said = ''
        if prompt == 'break down':
            raise BackendError('the parrot broke down')
        for count, word in enumerate(itertools.cycle(words) if 'for ever' in prompt else words):
            time.sleep(PACE_S)
            if 'full' in prompt and count == len(words) // 2:
                self.fill = 0
                yield CacheReset()
            # The words of a second round need the space that the first of them had not
            piece = word if count < len(words) else f' {word.lstrip()}'
            self.fill = min(self.capacity, self.fill + 1)
            said += piece
            yield TextDelta(piece)
        yield Answer(said, 'stop', 0, len(words), len(words), 0.1, 0.1 * len(words))

    def reset(self, _: str = '') -> None:
        self.fill = 0

    def recover(self) -> None:
        pass

    def close(self) -> None:
        pass


class ParrotNode(node.TinyLlamaNode):
    """Needs no artifact."""

    def _load(self) -> None:
        self._conversation = Parrot()
        self._server = Server(self._conversation, self._topics, options=self._options,
                              depth=self._value('queue_depth'))
        self._topics.begin()


if __name__ == '__main__':
    node.TinyLlamaNode = ParrotNode
    sys.exit(node.main())
