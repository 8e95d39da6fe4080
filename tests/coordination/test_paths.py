"""Which way to the database is dead, and who says so."""

from __future__ import annotations

import asyncio

import pytest

from app.coordination import paths
from app.coordination.paths import Way, watch


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(paths, "LOOK_EVERY_S", 0)
    monkeypatch.setattr(paths, "PROBE_S", 0)


class Link:
    """A way that is silent or not, and whose new connections answer or not."""

    def __init__(self, *, silent, answering):
        self.silent, self.answering = silent, answering
        self.probes = 0

    def way(self, name):
        return Way(name, lambda: self.silent, self._answers)

    async def _answers(self, _within_s):
        self.probes += 1
        await asyncio.sleep(0)
        return self.answering


async def verdict(one, other, *, until):
    """What watching says by the time that *until* is true."""
    dead = []
    watching = asyncio.create_task(watch(one.way("one"), other.way("other"), on_dead=dead.append))
    async with asyncio.timeout(10):
        while not (until() or watching.done()):
            await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return dead


async def test_a_way_is_dead_when_two_new_connections_get_no_answer_and_the_other_way_does():
    """
    Then the leases can be given back by the other.
    """
    one, other = Link(silent=True, answering=False), Link(silent=False, answering=True)

    assert await verdict(one, other, until=lambda: False) == ["one"]
    assert one.probes == paths.TRIES


async def test_a_way_whose_new_connections_answer_is_not_dead():
    """
    One connection was lost, as happens.
    """
    one, other = Link(silent=True, answering=True), Link(silent=False, answering=True)

    assert await verdict(one, other, until=lambda: one.probes > 5) == []


async def test_when_both_are_silent_nothing_is_given_back():
    """
    The database may be gone for everybody, and then no lease moves.
    """
    one, other = Link(silent=True, answering=False), Link(silent=True, answering=False)

    assert await verdict(one, other, until=lambda: other.probes > 5) == []


async def test_a_way_that_is_not_silent_is_not_tried():
    """
    Probing costs a connection.
    """
    one, other = Link(silent=False, answering=False), Link(silent=False, answering=True)
    looked = 0

    def ten_looks():
        nonlocal looked
        looked += 1
        return looked > 10

    assert await verdict(one, other, until=ten_looks) == []
    assert one.probes == 0
