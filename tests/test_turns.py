"""Waiting for one's turn in one process."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from app.errors import Kind, Refused
from app.turns import SharedQueue

ATTACKER, VICTIM = uuid.uuid4(), uuid.uuid4()


class Served:
    """Tasks that take a turn and keep it until they are let go."""

    def __init__(self, queue: SharedQueue) -> None:
        self.queue = queue
        self.began: list[str] = []
        self.let_go: dict[str, asyncio.Event] = {}

    def ask(self, user: uuid.UUID, name: str) -> asyncio.Task[None]:
        self.let_go[name] = asyncio.Event()
        return asyncio.create_task(self._ask(user, name))

    async def _ask(self, user: uuid.UUID, name: str) -> None:
        async with self.queue.turn(user):
            self.began.append(name)
            await self.let_go[name].wait()

    async def end(self, name: str) -> None:
        self.let_go[name].set()
        await rest()


async def rest() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_victim_is_served_at_once_beside_ten_requests_of_one_attacker():
    served = Served(SharedQueue("filters", places=3, waiting_max=8, wait_s=60))
    attacks = [served.ask(ATTACKER, f"a{n}") for n in range(10)]
    await rest()

    victim = served.ask(VICTIM, "v")
    await rest()

    assert served.began == ["a0", "a1", "v"]
    for task in [*attacks, victim]:
        task.cancel()
    await asyncio.gather(*attacks, victim, return_exceptions=True)


async def test_with_one_place_the_victim_is_next():
    served = Served(SharedQueue("filters", places=1, waiting_max=8, wait_s=60))
    attacks = [served.ask(ATTACKER, f"a{n}") for n in range(5)]
    await rest()
    victim = served.ask(VICTIM, "v")
    await rest()

    await served.end("a0")

    assert served.began == ["a0", "v"]
    for task in [*attacks, victim]:
        task.cancel()
    await asyncio.gather(*attacks, victim, return_exceptions=True)


async def test_a_full_line_says_busy_and_what_to_do():
    served = Served(SharedQueue("filters", places=3, waiting_max=1, wait_s=60))
    attacks = [served.ask(ATTACKER, f"a{n}") for n in range(3)]
    await rest()

    with pytest.raises(Refused, match="1 of your filters wait and 2 are being worked on") as refused:
        await served.ask(ATTACKER, "one too many")

    assert refused.value.kind is Kind.BUSY
    assert refused.value.status == 429
    for task in attacks:
        task.cancel()
    await asyncio.gather(*attacks, return_exceptions=True)


async def test_whoever_is_cancelled_gives_the_place_back():
    served = Served(SharedQueue("filters", places=1, waiting_max=8, wait_s=60))
    first, second = served.ask(ATTACKER, "first"), served.ask(VICTIM, "second")
    await rest()
    third = served.ask(VICTIM, "third")
    await rest()

    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await rest()

    assert served.began == ["first", "third"]
    await served.end("third")
    await third


async def test_a_wait_ends_and_says_whose_fault_it_is():
    served = Served(SharedQueue("filters", places=1, waiting_max=8, wait_s=0))
    first = served.ask(ATTACKER, "first")
    await rest()

    with pytest.raises(Refused) as own:
        await served.ask(ATTACKER, "own")
    with pytest.raises(Refused) as others:
        await served.ask(VICTIM, "others'")

    assert (own.value.kind, others.value.kind) == (Kind.BUSY, Kind.UNAVAILABLE)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
