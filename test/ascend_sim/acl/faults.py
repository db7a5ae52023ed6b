"""Faults that are injected by call and count."""

from dataclasses import dataclass


@dataclass
class Fault:
    """The nth call of a name, counted from when this was asked for, returns a code."""

    call: str
    nth: int
    code: int

    def __post_init__(self) -> None:
        if self.nth < 1:
            raise ValueError(f'{self.call}:{self.nth}={self.code}: calls are counted from 1')
        if self.code == 0:
            raise ValueError(f'{self.call}:{self.nth}=0: code 0 is success')


class Faults:
    """What is still to be injected."""

    def __init__(self, specification: str = '') -> None:
        self._pending = [_parse(part) for part in specification.split(',') if part.strip()]

    def add(self, call: str, nth: int, code: int) -> None:
        """Let the nth call from now on of this name (`memcpy` or `rt.memcpy`) return a code."""
        self._pending.append(Fault(call, nth, code))

    def clear(self) -> None:
        """Forget what is still to be injected."""
        self._pending.clear()

    def due(self, name: str) -> int:
        """Count a call and return the code that it is to return, or 0."""
        code = 0
        for fault in list(self._pending):
            if fault.call not in (name, name.rpartition('.')[2]):
                continue
            fault.nth -= 1
            if fault.nth == 0:
                self._pending.remove(fault)
                code = code or fault.code
        return code


def _parse(part: str) -> Fault:
    """Return what `execute_async:3=507011` asks for."""
    call, _, rest = part.strip().partition(':')
    nth, _, code = rest.partition('=')
    try:
        return Fault(call, int(nth), int(code))
    except ValueError as error:
        raise ValueError(f'{part!r} in ASCEND_SIM_FAULTS: a fault is written CALL:NTH=CODE, '
                         f'as in execute_async:3=507011 ({error})') from None
