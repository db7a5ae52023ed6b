"""What /diagnostics says of a server."""

import psutil

from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.serving import Server


def describe(server: Server, conversation: Conversation) -> dict[str, str]:
    """Return the values of the diagnostics by name, quantities with their unit."""
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
        'tokens read': str(statistics.prefill_tokens),
        'tokens drawn': str(statistics.generated_tokens),
        'resident memory (MB)': f'{psutil.Process().memory_info().rss / 1e6:.0f}',
    }
