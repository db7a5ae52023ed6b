"""
Asks pyACL about the NPU; doctor runs it as a process, because a broken toolkit may crash or hang.

It prints a line of JSON: ``soc`` is the chip; ``is_shared``, whether it shares the host's memory;
``memory``, its free and total bytes, or null if the device does not report them. After an error
the line has only ``failed``, the message.
"""

from contextlib import closing
import json

from tinyllama_ros.engine.acl.device import DDR, Device
from tinyllama_ros.errors import BackendError


def probe() -> dict[str, object]:
    """
    Return what pyACL reports of the first device.

    :raises BackendError: pyACL is missing, or a call failed.
    """
    with closing(Device(0)) as device:
        return {'soc': device.acl.get_soc_name() or '', 'is_shared': device.is_shared,
                'memory': _memory(device)}


def _memory(device: Device) -> tuple[int, int] | None:
    try:
        free, total = device.call('rt.get_mem_info', DDR)
        return free, total
    except BackendError:  # some releases do not support it; only doctor needs it
        return None


def main() -> None:
    """Print the report on device 0 of this machine."""
    try:
        report = probe()
    except BackendError as error:
        report = {'failed': str(error)}
    print(json.dumps(report))


if __name__ == '__main__':
    main()
