"""Shows progress of long work: a bar on a terminal, else one line every few seconds."""

from collections.abc import Iterable, Iterator
import logging
import sys
import time
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar('Item')
PERIOD_S = 5.0
"""Between two lines if stderr is not a terminal."""

log = logging.getLogger(__name__)


def track(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """
    Yield the items, and show on stderr how many of them are done.

    Without log messages of level INFO, as in a library, it shows nothing.

    :param total: how many there will be, of items that are made one after the other.
    """
    if total is None:
        items = list(items)
        total = len(items)
    if not log.isEnabledFor(logging.INFO):
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, desc=title, total=total)
        return
    log.info('%s: 0 of %d', title, total)
    next_s = time.monotonic() + PERIOD_S
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() >= next_s:
            log.info('%s: %d of %d', title, done, total)
            next_s = time.monotonic() + PERIOD_S
