"""A thousand damaged manifests are taken or refused in one line, in bounded time and memory."""

from support.fuzz import check


def test_damaged_manifests_are_refused_in_one_line():
    check('support.hostile_files:manifest')
