"""Lets tests configure the simulated board, and read what programs did to it."""

import atexit
from collections import Counter
import json
import os
from pathlib import Path
from typing import Any

from acl import process
from acl.errors import Violation

__all__ = ['assert_clean', 'fail', 'live', 'memory_used', 'reset', 'Violation', 'write_log']


def reset(**settings: Any) -> None:
    """
    Start again with a new board.

    :param settings: form ('rc' or 'ep'), soc, memory (bytes), faults, shapes (for an .onnx in
        place of an .om), watch (count what the host changes in the inputs, in RC form), half
        (round and overflow as fp16 does), fill (the byte in new memory), devices; what is not
        given comes from the environment.
    """
    process.replace(process.Settings(**settings))


def fail(call: str, nth: int = 1, code: int = 500000) -> None:
    """Make the nth call of this name, from now on, return a code."""
    process.current().faults.add(call, nth, code)


def live() -> dict[str, int]:
    """Return counts of everything that must be freed and is not."""
    state = process.current()
    counts = dict(state.handles.counts())
    counts['Context'] = sum(not context.is_default
                            for context in state.handles.of(process.Context).values())
    for made in state.memory.live():
        name = f'{made.kind} memory'
        counts[name] = counts.get(name, 0) + 1
    counts['Model'] = len(state.models)
    counts['device set'] = sum(device.count for device in state.devices.values())
    counts['thread'] = sum(thread.is_alive() for thread in state.threads.values())
    counts['initialised'] = int(state.is_initialized)
    return {name: count for name, count in counts.items() if count}


def memory_used() -> int:
    """Return the bytes of device memory in use."""
    return process.current().memory.charged


def assert_clean() -> None:
    """Raise AssertionError if something was not freed, or a rule was broken."""
    problems = list(process.current().violations)
    problems += [f'{count} {name} still alive' for name, count in live().items()]
    assert not problems, '; '.join(problems)


def write_log(path: str | Path) -> None:
    """Append one line of JSON with everything that was counted."""
    state = process.current()
    line = {'calls': dict(Counter(state.calls)), 'moved': dict(state.moved), 'live': live(),
            'violations': state.violations, 'memory_used': state.memory.charged,
            'form': state.settings.form}
    with open(path, 'a', encoding='utf-8') as log:
        log.write(json.dumps(line) + '\n')


def __getattr__(name: str) -> Any:
    """Return calls, moved or violations of the process as it is now."""
    if name in ('calls', 'moved', 'violations'):
        return getattr(process.current(), name)
    raise AttributeError(name)


if os.environ.get('ASCEND_SIM_LOG'):
    atexit.register(write_log, os.environ['ASCEND_SIM_LOG'])
