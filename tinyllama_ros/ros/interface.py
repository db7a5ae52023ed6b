"""The topics and services of the node: one table, to which a test holds the node that runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args, Literal

from tinyllama_ros.chat.events import ResetReason
from tinyllama_ros.chat.serving import RecordKind, State

Role = Literal['hears', 'says', 'serves']


@dataclass(frozen=True)
class Endpoint:
    """One topic or service."""

    role: Role
    type: str
    description: str
    depth: int = 1000
    """Of the queue of a topic: deep enough that a slow subscriber loses no token."""
    is_latched: bool = False
    """Whether who comes late is told what the queue still holds (transient local)."""


def _values(kind: object) -> str:
    return ', '.join(f'`{value}`' for value in get_args(kind))


STRING = 'std_msgs/msg/String'
TRIGGER = 'std_srvs/srv/Trigger'
ENDPOINTS: Mapping[str, Endpoint] = {
    '~/prompt': Endpoint('hears', STRING, 'One turn of the user, while the node is active; up to '
                         '`queue_depth` wait, one more is refused.'),
    '~/chat_request': Endpoint('hears', STRING, "JSON: a history that is not the robot's own, to "
                               'be answered in the same queue; see [openai.md](openai.md).'),
    '~/chat_cancel': Endpoint('hears', STRING, 'The id of a request whose answer is not wanted '
                              'any more.'),
    '~/token': Endpoint('says', STRING, 'A piece of the answer, whole characters; the pieces '
                        'joined are the response.'),
    '~/sentence': Endpoint('says', STRING, 'A sentence of the answer, as soon as it ends.'),
    '~/response': Endpoint('says', STRING, 'The whole answer; exactly one for each accepted '
                           'prompt, also when cut short.'),
    '~/cache_reset': Endpoint('says', STRING, 'The cache was cleared, and why: '
                              f'{_values(ResetReason)}.'),
    '~/error': Endpoint('says', STRING, 'A prompt was refused or an answer failed: what, why, '
                        'what to do.'),
    '~/state': Endpoint('says', STRING, f'What the node does: {_values(State)}.', depth=1,
                        is_latched=True),
    '~/chat_event': Endpoint('says', STRING, 'JSON: what became of a request, by its id; its '
                             'answer is not on `~/token` and the like.'),
    '~/history': Endpoint('says', STRING, 'JSON: a line of the record of the conversation, with '
                          f'`run`, `line`, `kind` (`begun`, {_values(RecordKind)}), `text` and '
                          '`why`; a new `run` begins where the model was loaded anew.', depth=200,
                          is_latched=True),
    '/diagnostics': Endpoint('says', 'diagnostic_msgs/msg/DiagnosticArray', 'Once a second, by '
                             'the name of the node: fill and capacity of the cache, resets, '
                             'tok/s, time to first token, queue, counts, memory.', depth=10),
    '~/reset': Endpoint('serves', TRIGGER, 'Clears the conversation; replies when it is cleared.'),
    '~/cancel': Endpoint('serves', TRIGGER, 'Stops the answer before its next forward pass; what '
                         'was published of it stays in the conversation.'),
}
