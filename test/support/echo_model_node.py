"""
The node with a model that repeats the prompt; all else is the real thing.

'for ever' in the prompt makes it go on until it is stopped, 'full' clears its memory on the way,
'break down' makes it fail, and 'hang' begins a forward pass that never ends. The model 'endless'
is never loaded.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
import re
import sys
from threading import Event
import time

from tinyllama_ros.chat.events import (
    Answer,
    CacheReset,
    ChatOptions,
    PrefillProgress,
    TextDelta,
    TurnEvent,
)
from tinyllama_ros.chat.message import Message
from tinyllama_ros.errors import BackendError
from tinyllama_ros.ros import lifecycle_node

PACE_S = 0.005
"""Of a token of a small model; time to stop it in between."""


class EchoConversation:
    """A conversation whose cache has a slot for each word."""

    capacity = 1024

    def __init__(self) -> None:
        self.fill = 0

    def check(self, _: ChatOptions) -> None:
        pass

    def check_size(self, _: object) -> None:
        pass

    def check_prompt(self, _: str) -> None:
        pass

    def answer(self, prompt: str, _: ChatOptions, __: Callable[[], bool]
               ) -> Iterator[TurnEvent]:
        words = re.findall(r'\s*\S+|\s+', prompt)
        self.fill += len(words)
        yield PrefillProgress(len(words))
        text = ''
        if 'hang' in prompt:
            yield TextDelta('so far')
            Event().wait()
        if prompt == 'break down':
            raise BackendError('the model broke down')
        for count, word in enumerate(itertools.cycle(words) if 'for ever' in prompt else words):
            time.sleep(PACE_S)
            if 'full' in prompt and count == len(words) // 2:
                self.fill = 0
                yield CacheReset()
            # The words of a second round need the space that the first of them had not
            piece = word if count < len(words) else f' {word.lstrip()}'
            self.fill = min(self.capacity, self.fill + 1)
            text += piece
            yield TextDelta(piece)
        yield Answer(text, 'stop', 0, len(words), len(words), 0.1, 0.1 * len(words))

    def complete(self, messages: Sequence[Message], options: ChatOptions,
                 is_cancelled: Callable[[], bool]) -> Iterator[TurnEvent]:
        return self.answer(messages[-1].content, options, is_cancelled)

    def reset(self, _: str = '') -> None:
        self.fill = 0

    def recover(self) -> None:
        pass

    def close(self) -> None:
        pass


class EchoModelNode(lifecycle_node.TinyLlamaNode):
    """Needs no artifact."""

    def _load(self) -> None:
        if self.value('model') == 'endless':
            Event().wait()
        self._serve(EchoConversation())
        self._publisher.begin_run()


if __name__ == '__main__':
    lifecycle_node.TinyLlamaNode = EchoModelNode
    sys.exit(lifecycle_node.run())
