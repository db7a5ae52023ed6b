"""Thousands of damaged requests and events are taken or refused in one line, in bounded time."""

import pytest
from support.fuzz import check

pytest.importorskip('aiohttp', reason='pip install aiohttp')


@pytest.mark.parametrize('reader', ['requests', 'bodies', 'events'])
def test_damaged_requests_are_refused_in_one_line(reader):
    check(f'support.hostile_requests:{reader}')
