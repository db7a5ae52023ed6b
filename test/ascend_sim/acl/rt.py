"""acl.rt, gathered."""

from acl.runtime import (
    create_context,
    destroy_context,
    get_context,
    get_device,
    get_device_count,
    get_run_mode,
    query_device_status,
    reset_device,
    reset_device_force,
    set_context,
    set_device,
)
from acl.streams import (
    create_stream,
    destroy_stream,
    launch_callback,
    process_report,
    stream_query,
    subscribe_report,
    synchronize_device,
    synchronize_stream,
    synchronize_stream_with_timeout,
    unsubscribe_report,
)
from acl.transfer import (
    free,
    free_host,
    get_mem_info,
    malloc,
    malloc_align32,
    malloc_cached,
    malloc_host,
    mem_flush,
    mem_invalidate,
    memcpy,
    memcpy2d,
    memcpy_async,
    memset,
    memset_async,
)

__all__ = [
    'create_context', 'create_stream', 'destroy_context', 'destroy_stream', 'free', 'free_host',
    'get_context', 'get_device', 'get_device_count', 'get_mem_info', 'get_run_mode',
    'launch_callback', 'malloc', 'malloc_align32', 'malloc_cached', 'malloc_host', 'mem_flush',
    'mem_invalidate', 'memcpy', 'memcpy2d', 'memcpy_async', 'memset', 'memset_async',
    'process_report', 'query_device_status', 'reset_device', 'reset_device_force', 'set_context',
    'set_device', 'stream_query', 'subscribe_report', 'synchronize_device', 'synchronize_stream',
    'synchronize_stream_with_timeout', 'unsubscribe_report',
]
