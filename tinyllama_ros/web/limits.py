"""
Limits what one client address may use: requests a second, connections, answers at once.

All addresses of one IPv6 network (/64) count as one, because one client can use them all.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
import ipaddress

from tinyllama_ros.web.settings import is_address

MOST_ADDRESSES = 1024
"""Addresses in the table; when there are more, the one that was idle longest is removed."""
ANSWERS_AT_ONCE = 4
"""Requests of one address that may be in the queue of the model's node, which holds 16."""
TICK_S = 0.2


class RequestRates:
    """A token bucket for each address: it holds `burst` tokens and is refilled at a fixed rate."""

    def __init__(self, per_second: float, burst: int, clock_s: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock_s = clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at time_s

    def allow(self, address: str) -> bool:
        """Count a request; return whether it is within the limit."""
        key = network_of(address)
        now_s = self._clock_s()
        tokens, then_s = self._buckets.pop(key, (float(self._burst), now_s))
        tokens = min(float(self._burst), tokens + (now_s - then_s) * self._per_second)
        is_allowed = tokens >= 1
        self._buckets[key] = (tokens - is_allowed, now_s)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return is_allowed


class AnswerSlots:
    """
    Limits the answers that each address gets at once; its further requests wait here.

    So they do not fill the queue of the language model's node, which all addresses share.
    """

    def __init__(self, per_address: int = ANSWERS_AT_ONCE) -> None:
        self._per_address = per_address
        self._users: dict[str, list[object]] = {}  # in order of arrival

    async def wait(self, address: str, user: object) -> AsyncGenerator[None, None]:
        """Yield until the user may begin, every 0.2 s; `release` has to follow in any case."""
        users = self._users.setdefault(network_of(address), [])
        users.append(user)
        while user not in users[:self._per_address]:
            yield
            await asyncio.sleep(TICK_S)

    def release(self, address: str, user: object) -> None:
        """Remove a user that was answered or gave up; the next one of its address may begin."""
        key = network_of(address)
        users = self._users[key]
        users.remove(user)
        if not users:
            del self._users[key]


def share_of(total: int) -> int:
    """Return how many of all connections one address may hold, so that others get some."""
    return max(1, total * 3 // 4)


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or a /64 network of IPv6."""
    if not is_address(address):
        return address
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
