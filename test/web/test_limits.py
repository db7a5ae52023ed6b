"""What one address may use: requests a second, answers at once, and connections."""

import asyncio

import pytest

from tinyllama_ros.web.limits import (
    AnswerSlots,
    MOST_ADDRESSES,
    network_of,
    RequestRates,
    share_of,
)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_bucket_fills_at_its_rate_and_never_over():
    clock = Clock()
    rates = RequestRates(2.0, 4, clock)
    assert [rates.allow('a') for _ in range(5)] == [True] * 4 + [False]
    clock.now_s += 1
    assert [rates.allow('a') for _ in range(3)] == [True, True, False]
    clock.now_s += 1000
    assert [rates.allow('a') for _ in range(5)] == [True] * 4 + [False]


def test_addresses_are_counted_apart_and_networks_of_version_6_together():
    rates = RequestRates(1.0, 1, Clock())
    assert [rates.allow(address) for address in (
        '10.0.0.1', '10.0.0.2', '2001:db8::1', '2001:db8::ffff', '2001:db8:0:1::1',
        '::ffff:10.0.0.3', '::ffff:10.0.0.4')] == [True, True, True, False, True, True, True]


def test_only_so_many_addresses_are_remembered():
    rates = RequestRates(1.0, 1, Clock())
    assert all(rates.allow(f'host {number}') for number in range(MOST_ADDRESSES + 1))
    assert [rates.allow('host 0'), rates.allow(f'host {MOST_ADDRESSES}')] == [True, False]


@pytest.mark.parametrize(('address', 'network'), [
    ('10.0.0.1', '10.0.0.1'), ('::ffff:10.0.0.1', '10.0.0.1'), ('', ''),
    ('2001:db8::ffff', '2001:db8::/64'), ('fe80::1%eth0', 'fe80::1%eth0')])
def test_network_is_what_one_client_may_have_all_of(address, network):
    assert network_of(address) in (network, 'fe80::/64')


@pytest.mark.parametrize(('total', 'share'), [(1, 1), (2, 1), (4, 3), (64, 48)])
def test_share_leaves_room_for_others(total, share):
    assert share_of(total) == share


def test_slots_are_given_in_the_order_of_the_requests_and_for_each_address():
    async def begin(slots, address, user):
        async for _ in slots.wait(address, user):
            return False
        return True

    async def main():
        slots = AnswerSlots(per_address=2)
        begun = [await begin(slots, 'a', number) for number in range(4)]
        assert begun == [True, True, False, False]
        assert await begin(slots, 'b', 9)
        slots.release('a', 2)  # gives up
        waiting = slots.wait('a', 4)
        await anext(waiting)
        slots.release('a', 0)
        slots.release('a', 3)
        with pytest.raises(StopAsyncIteration):
            await anext(waiting)
        for address, user in (('a', 1), ('a', 4), ('b', 9)):
            slots.release(address, user)
        assert slots._users == {}
    asyncio.run(main())
