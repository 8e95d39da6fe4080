import asyncio

import pytest

from app.market.budget import WeightBudget


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self, now=1_000_020.0):
        self.now = now
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def budget(clock):
    return WeightBudget(clock=clock, sleep=clock.sleep)


async def test_the_ceiling_is_85_percent_of_6000(budget):
    assert budget.ceiling == 5_100


async def test_what_does_not_fit_waits_for_the_next_clock_minute(budget, clock):
    await budget.spend(5_100)
    await budget.spend(1)

    assert len(clock.slept) == 1
    assert clock.now % 60 == pytest.approx(0.05)
    assert budget.used == 1


async def test_what_fits_does_not_wait(budget, clock):
    for _ in range(2_550):
        await budget.spend(2)

    assert clock.slept == []
    assert budget.used == 5_100


async def test_the_exchanges_count_rules_when_it_is_greater(budget, clock):
    minute = await budget.spend(2)
    budget.observe(5_099, minute=minute)

    await budget.spend(2)

    assert len(clock.slept) == 1


async def test_our_count_rules_when_it_is_greater(budget):
    minute = await budget.spend(100)
    budget.observe(40, minute=minute)

    assert budget.used == 100


async def test_an_answer_to_an_earlier_minute_says_nothing_about_this_one(budget, clock):
    minute = await budget.spend(2)
    clock.now += 60
    budget.observe(5_999, minute=minute)

    assert budget.used == 0


async def test_the_count_starts_anew_on_the_clock_minute(budget, clock):
    await budget.spend(5_000)
    clock.now += 60 - clock.now % 60

    assert budget.used == 0


async def test_waiters_are_served_in_the_order_they_came(budget):
    await budget.spend(5_100)
    served = []

    async def ask(name, weight):
        await budget.spend(weight)
        served.append(name)

    async with asyncio.TaskGroup() as group:
        for name, weight in (("heavy", 5_000), ("light", 1), ("middle", 200)):
            group.create_task(ask(name, weight))
            await asyncio.sleep(0)

    assert served == ["heavy", "light", "middle"]


async def test_a_cancelled_waiter_takes_nothing_and_lets_the_next_pass(clock):
    gate = asyncio.Event()

    async def sleep(seconds):
        await gate.wait()
        clock.now += seconds

    budget = WeightBudget(clock=clock, sleep=sleep)
    await budget.spend(5_100)
    first = asyncio.create_task(budget.spend(10))
    second = asyncio.create_task(budget.spend(20))
    await asyncio.sleep(0)

    first.cancel()
    gate.set()
    await second

    assert budget.used == 20


async def test_a_request_above_the_ceiling_is_refused_instead_of_waiting_for_ever(budget):
    with pytest.raises(ValueError, match="weight 5101 can never pass a ceiling of 5100"):
        await budget.spend(5_101)


async def test_a_share_is_reserved_for_the_live_minute(budget, clock):
    """History waits at four fifths of the ceiling; a live request still goes through, and does not queue behind it."""
    budget.reserve(0.2)
    await budget.spend(4_080, background=True)

    await budget.spend(800)
    assert clock.slept == []

    await budget.spend(2, background=True)
    assert len(clock.slept) == 1


async def test_a_429_halves_the_pace_of_history_only(budget, clock):
    """The live minute keeps the whole ceiling, and history gets faster again minute by minute."""
    budget.slow_down()

    assert (budget.ceiling, budget.background_ceiling) == (5_100, 2_550)
    await budget.spend(5_100)
    assert clock.slept == []
    clock.now += 60
    assert budget.used == 0
    assert budget.background_ceiling == 3_187
    clock.now += 600
    assert (budget.used, budget.background_ceiling) == (0, 5_100)


async def test_a_new_feeder_does_not_start_at_zero(budget, clock):
    """What its address has used of this minute counts; of another minute it says nothing."""
    budget.resume(int(clock.now // 60), 5_000)
    assert budget.used == 5_000

    budget.resume(int(clock.now // 60) - 1, 5_050)
    assert budget.used == 5_000
