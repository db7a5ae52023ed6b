"""Lists the topics and services of the node; node, clients and docs are made from this table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, Literal

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, Empty, String
from std_srvs.srv import Trigger

from tinyllama_ros.chat.events import ResetReason
from tinyllama_ros.chat.interruption import SPEAKING_EXPIRES_S
from tinyllama_ros.chat.notices import LONGEST_RECORD, RecordKind, State

Role = Literal['subscription', 'publisher', 'service']


@dataclass(frozen=True)
class Endpoint:
    """One topic or service, from the node's point of view."""

    role: Role
    type: Any
    """Class of the messages, or of the service."""
    description: str
    depth: int = 1000
    """Depth of a topic's queue, large enough that a slow subscriber loses no token."""
    is_latched: bool = False
    """Whether late subscribers receive the messages in the queue (transient local)."""

    @property
    def type_name(self) -> str:
        """The type as ROS tools write it."""
        package, section, _ = self.type.__module__.split('.')
        return f'{package}/{section}/{self.type.__name__}'

    @property
    def qos(self) -> QoSProfile:
        """The quality of service of both ends of a topic: reliable, keep last."""
        durability = (DurabilityPolicy.TRANSIENT_LOCAL if self.is_latched
                      else DurabilityPolicy.VOLATILE)
        return QoSProfile(depth=self.depth, durability=durability)


def _values(kind: object) -> str:
    return ', '.join(f'`{value}`' for value in get_args(kind))


ENDPOINTS: Mapping[str, Endpoint] = {
    '~/chat_request': Endpoint('subscription', String, 'JSON: a request with its own message '
                               'history, separate from the conversation of the robot; it waits in '
                               'the same queue. See [openai.md](openai.md).'),
    '~/chat_cancel': Endpoint('subscription', String, 'The id of a request to cancel.'),
    '~/speaking': Endpoint('subscription', Bool, 'From a speech node: whether it is speaking. '
                           'True is repeated while it lasts: after '
                           f'{SPEAKING_EXPIRES_S:.0f} s without a message the node counts as '
                           'silent. See `when_speaking`.'),
    '~/spoken': Endpoint('subscription', String, 'From a speech node: what it has spoken so far '
                         'of the newest answer. If the answer is interrupted, the conversation '
                         'keeps this.'),
    # The prompt comes last: when its subscription is found, the others exist, too
    '~/prompt': Endpoint('subscription', String, 'One turn of the user, while the node is active; '
                         'up to `queue_depth` wait, one more is refused, as is one of more bytes '
                         'than the slots of the cache can hold. The depth is that of '
                         '`prompt_depth`.'),
    '~/event': Endpoint('publisher', String, 'JSON: everything that happens in the conversation, '
                        'in one order: `run`, `turn`, `seq`, `line`, `kind` (those of `~/history` '
                        'and `token`), `text` and `why`. For programs; the following topics are '
                        'for people and speech nodes.'),
    '~/token': Endpoint('publisher', String, 'A text delta of the answer, whole characters; the '
                        'deltas joined are the response.'),
    '~/sentence': Endpoint('publisher', String, 'What a speech node says next: a '
                            'sentence or line of the answer, as soon as it ends, without '
                            'markup; see [voice.md](voice.md).'),
    '~/response': Endpoint('publisher', String, 'The whole answer; exactly one for each accepted '
                           'prompt, also when cut short.'),
    '~/cache_reset': Endpoint('publisher', String, 'The cache was cleared, and why: '
                              f'{_values(ResetReason)}.'),
    '~/interrupted': Endpoint('publisher', Empty, 'An answer was cut short: no token or sentence '
                              'of it comes after this, and a speech node should stop.'),
    '~/error': Endpoint('publisher', String, 'A prompt was refused or an answer failed: what, '
                        'why, what to do.'),
    '~/chat_event': Endpoint('publisher', String, 'JSON: the events of a request, with its id; '
                             'its answer is not on `~/token`, `~/sentence` and `~/response`.'),
    '~/history': Endpoint('publisher', String, 'JSON: the events of `~/event` without the tokens, '
                          'for late subscribers. `kind` is `begun` when the model was loaded and '
                          f'a new `run` begins, or one of {_values(RecordKind)}. A text of more '
                          f'than {LONGEST_RECORD} characters is cut, and its length is appended; '
                          'so is a refused prompt on `~/event`.', depth=200, is_latched=True),
    '~/state': Endpoint('publisher', String, f'The state of the node: {_values(State)}.', depth=1,
                        is_latched=True),
    '/diagnostics': Endpoint('publisher', DiagnosticArray, 'Once a second, by the name of the '
                             'node: fill and capacity of the cache, resets, tok/s, time to first '
                             'token, queue, counts, memory.', depth=10),
    '~/reset': Endpoint('service', Trigger, 'Clears the conversation; replies when it is '
                        'cleared.'),
    '~/cancel': Endpoint('service', Trigger, 'Stops the answer before its next forward pass; what '
                         'was published of it stays in the conversation.'),
}


def endpoints(role: Role) -> dict[str, Endpoint]:
    """Return the endpoints of one role by name."""
    return {name: endpoint for name, endpoint in ENDPOINTS.items() if endpoint.role == role}


def diagnostics_name(node: str) -> str:
    """Return the name of a node's status in the diagnostics."""
    return f'{node}: language model'
