"""Makes the message that a node publishes on /diagnostics."""

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
import psutil

from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.ros.interface import diagnostics_name


def describe_status(node: str, model: str, backend: str, server: Server | None,
                    conversation: Conversation | None, has_namesake: bool, lost: int
                    ) -> DiagnosticStatus:
    """
    Return the status of a node.

    :param node: its full name.
    :param lost: messages that were lost before the node could take them.
    """
    status = DiagnosticStatus(name=diagnostics_name(node), hardware_id=backend)
    if server is None or conversation is None:
        status.level, status.message = DiagnosticStatus.WARN, 'no model is loaded'
        return status
    if server.state == 'error':
        status.level, status.message = DiagnosticStatus.ERROR, 'the last answer failed'
    elif has_namesake:
        status.level = DiagnosticStatus.WARN
        status.message = 'another node has the same name; both answer every prompt'
    else:
        status.level, status.message = DiagnosticStatus.OK, server.state
    values = {'model': model, 'backend': backend, **describe(server, conversation),
              'messages lost': str(lost)}
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def describe(server: Server, conversation: Conversation) -> dict[str, str]:
    """Return the values of the diagnostics by name; the names include units."""
    statistics = server.statistics
    last = statistics.last
    return {
        'state': server.state,
        'fill (slots)': str(conversation.fill),
        'capacity (slots)': str(conversation.capacity),
        'resets, full': str(statistics.resets['full']),
        'resets, requested': str(statistics.resets['requested']),
        'resets, recovered': str(statistics.resets['recovered']),
        'speed (tok/s)': f'{last.tokens_per_second:.1f}' if last else '',
        'time to first token (s)': f'{last.prefill_s:.3f}' if last else '',
        'prompts waiting': str(server.waiting),
        'answers': str(statistics.answers),
        'requests answered': str(statistics.completions),
        'answers cancelled': str(statistics.cancelled),
        'answers failed': str(statistics.failed),
        'prompts refused': str(statistics.refused),
        'prefill tokens': str(statistics.prefill_tokens),
        'generated tokens': str(statistics.generated_tokens),
        'resident memory (MB)': f'{psutil.Process().memory_info().rss / 1e6:.0f}',
    }
