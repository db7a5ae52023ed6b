"""
Ask an NPU through pyACL what it is; run as a program, since a broken toolkit may crash or hang.

It prints a line of JSON: ``soc``; ``is_shared``, whether its memory is the host's; ``memory``,
free and total bytes of that, or null where the device does not tell; or ``failed``, what went
wrong.
"""

import json

from tinyllama_ros.engine.acl.device import DDR, Device
from tinyllama_ros.errors import BackendError


def probe(number: int = 0) -> dict[str, object]:
    """
    Return what pyACL tells of a device.

    :raises BackendError: pyACL is missing, or a call failed.
    """
    device = Device(number)
    try:
        return {'soc': device.acl.get_soc_name() or '', 'is_shared': device.is_shared,
                'memory': _memory(device)}
    finally:
        device.close()


def _memory(device: Device) -> tuple[int, int] | None:
    try:
        free, total = device.call('rt.get_mem_info', DDR)
        return free, total
    except BackendError:  # some releases refuse the question; nothing that runs a model asks it
        return None


def main() -> None:
    """Print what this machine's device tells."""
    try:
        found = probe()
    except BackendError as error:
        found = {'failed': str(error)}
    print(json.dumps(found))


if __name__ == '__main__':
    main()
