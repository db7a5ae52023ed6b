"""
Ask the NPU through pyACL who it is; run as a program, since a broken toolkit may crash or hang.

It prints one line of JSON: ``soc``, ``run_mode`` (0: on the board, 1: a card in a host), ``free``
and ``total`` bytes of its memory, or ``failed``, the call and its code.
"""

from collections.abc import Callable
import json
from typing import Any

REPEATED_INIT = 100002
MEMORY_KINDS = (0, 1)
"""DDR, which the 310B has, and HBM."""


class _CallFailed(Exception):
    pass


def _checked(call: Callable[..., Any], *arguments: object, allowed: tuple[int, ...] = (0,)) -> Any:
    """Return the values that a call gives beside its status, which must be one of the allowed."""
    found = call(*arguments)
    *values, status = found if isinstance(found, tuple) else (found,)
    if status not in allowed:
        shown = ', '.join(map(str, arguments))
        raise _CallFailed(f'{call.__name__}({shown}) returned {status}')
    return values[0] if len(values) == 1 else values


def probe(acl: Any, device: int = 0) -> dict[str, object]:
    """Return what pyACL tells of a device; the process must not have used it before."""
    try:
        _checked(acl.init, allowed=(0, REPEATED_INIT))
        try:
            _checked(acl.rt.set_device, device)
            try:
                return {'soc': acl.get_soc_name(), 'run_mode': _checked(acl.rt.get_run_mode)
                        } | _memory(acl)
            finally:
                acl.rt.reset_device(device)
        finally:
            acl.finalize()
    except _CallFailed as failure:
        return {'failed': f'{failure}: {acl.get_recent_err_msg() or "no more is known"}'}


def _memory(acl: Any) -> dict[str, object]:
    for kind in MEMORY_KINDS:
        free, total, status = acl.rt.get_mem_info(kind)
        if status == 0 and total:
            return {'free': free, 'total': total}
    return {'free': 0, 'total': 0}


def main() -> None:
    """Print what this machine's device tells."""
    import acl
    print(json.dumps(probe(acl)))


if __name__ == '__main__':
    main()
