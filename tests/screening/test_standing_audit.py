"""The standing audit finds what a machine committed wrongly, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from app.domain.audit import Difference, Rule, Seen, differences, expected
from app.screening.standing_audit import SHARE, StandingAudit
from tests import world

CLOSES = world.random_closes(6, 90)
FREQUENCIES = ["every_bar", "on_enter", {"cooldown_s": 180}]


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    world.put_closes(connection, CLOSES, first=-29)
    fives = {symbol: closes[4::5] for symbol, closes in CLOSES.items()}
    world.put_closes(connection, fives, first=-25, timeframe="5m", minutes=5)
    world.close_slots(connection, 0)


@pytest.fixture
def audited(pool, machine):
    """A function that makes a machine whose every slot is noted, and its audit: () -> (screener, audit)."""

    async def make(clock=lambda: 0.0):
        a = await machine()
        audit = StandingAudit(pool, a, a._metrics, a.evaluation.evaluator._each, clock=clock)
        a._on_screened = audit.note
        return a, audit

    return make


def counts(a):
    return (
        a._metrics.audited._value.get(),
        a._metrics.audit_mismatches._value.get(),
        a._metrics.incremental._value.get(),
    )


def plans():
    forming = world.above(100, timeframe="5m", op="forming", show=True)
    return [world.above(100), world.above_average(7), world.above(100, timeframe="5m"), forming]


async def test_nothing_differs_in_a_slot_that_is_right(connection, audited, market, user):
    """
    Every frequency, closed and forming bars, traders edited, stopped, started and deleted between slots, candles that come late.
    """
    traders = [
        world.add_trader(connection, user, plan, frequency=frequency)
        for plan in plans()
        for frequency in FREQUENCIES
    ]
    a, audit = await audited()
    world.claim(connection, a.boot_id)
    rng = np.random.default_rng(3)
    for number in range(1, 41):
        world.close_slots(connection, number)
        await a.screen()
        if number % 7 == 0:  # after the slot, before its audit
            world.change_plan(connection, traders[number % len(traders)], plans()[number % 4])
        if number % 9 == 0:
            connection.execute(
                "update public.traders set frequency = %s where id = %s",
                ('"on_enter"' if number % 2 else '{"cooldown_s": 240}', traders[(number + 5) % len(traders)]),
            )
        if number % 11 == 0:
            late = {f"LATE{number}USDT": [float(rng.normal(100, 1))]}
            world.put_closes(connection, late, first=number)
            connection.execute(
                "insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason)"
                " select symbol_id, '1m', %s, '{}', 'late' from vyx.symbols where symbol = %s",
                (world.at(number - 1), f"LATE{number}USDT"),
            )
        if number == 20:
            connection.execute("delete from public.traders where id = %s", (traders.pop(),))
        if number == 25:
            world.stop(connection, traders[0])
        if number == 30:
            world.start(connection, traders[0])
            world.claim(connection, a.boot_id)
        await audit.audit()

    done, wrong, incremental = counts(a)
    assert (wrong, incremental) == (0, 1)
    assert done > 200
    assert connection.execute("select count(*) from vyx.incidents").fetchone() == (0,)


@pytest.mark.parametrize(
    ("harm", "where"),
    [
        ("delete from public.signals where symbol = 'S1USDT'", "replayed"),
        ("update public.signals set price = price + 1 where symbol = 'S1USDT'", "both"),
        ("update public.signals set shown = '{\"seen\": 7}' where symbol = 'S1USDT'", "both"),
        (
            (
                'insert into public.signals select (jsonb_populate_record(g, \'{"symbol": "ZZZUSDT"}\')).* from public.signals g'
                " where symbol = 'S1USDT'"
            ),
            "live",
        ),
    ],
)
async def test_a_difference_is_found_counted_and_stops_what_is_carried(
    connection, audited, market, user, harm, where
):
    """
    A signal lost, foreign, of another price or with other values: a metric, an incident with the trader and the slot, and every slot
    from then on is computed from the candles.
    """
    trader = world.add_trader(connection, user, world.above(0, show=True))
    a, audit = await audited()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()
    connection.execute(harm)

    assert await audit.audit() == 1

    assert counts(a) == (1, 1, 0)
    (found,) = connection.execute(
        "select kind, boot_id, trader_id, slot, message from vyx.incidents"
    ).fetchall()
    assert found[:4] == ("audit mismatch", a.boot_id, trader, world.at(1))
    assert f"only in {where}" in found[4]
    machines = connection.execute("select machine_id, mismatches from vyx.recomputing_machines").fetchall()
    assert machines == [("a", 1)]
    carried = a.evaluation.evaluator._live.advance
    a.evaluation.evaluator._live.advance = None  # nobody calls it any more
    world.close_slots(connection, 2)
    assert await a.screen() == 1
    a.evaluation.evaluator._live.advance = carried
    await audit.audit()
    assert counts(a) == (2, 1, 0)


async def test_a_fault_in_what_is_carried_is_found(connection, audited, market, user):
    """
    What the machine carries says that nothing matches; the candles say otherwise.
    """
    world.add_trader(connection, user, world.above(0))
    a, audit = await audited()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2)
    await a.screen()
    await audit.audit()
    advance = a.evaluation.evaluator._live.advance

    def faulty(instant_ms):
        advance(instant_ms)
        a.evaluation.evaluator._live.rows.bits[:] = 0

    a.evaluation.evaluator._live.advance = faulty
    world.close_slots(connection, 3)
    await a.screen()
    await audit.audit()

    assert counts(a) == (2, 1, 0)


async def test_the_sample_goes_round_all_traders(connection, audited, market, user, monkeypatch):
    """
    Every trader gets its verdict, whatever fits into one slot's budget.
    """
    traders = {world.add_trader(connection, user, world.above(n)) for n in range(7)}
    a, audit = await audited()
    monkeypatch.setattr(audit, "_affordable", lambda: 2)
    seen = set()
    cases = audit._cases

    async def spying(slot, piece):
        seen.update(t.trader_id for t in piece)
        return await cases(slot, piece)

    monkeypatch.setattr(audit, "_cases", spying)
    world.claim(connection, a.boot_id)
    for number in range(1, 5):
        world.close_slots(connection, number)
        await a.screen()
        await audit.audit()

    assert seen == traders


async def test_the_audit_spends_a_hundredth_of_the_time(connection, audited, market, user):
    """
    A clock that moves by 0.1 s whenever it is read: once what was saved up is spent, 10 s go by between two audits.
    """
    world.add_trader(connection, user, world.above(0))
    now = [0.0]

    def clock():
        now[0] += 0.1
        return now[0]

    a, audit = await audited(clock)
    world.claim(connection, a.boot_id)
    began = now[0]
    done = 0
    for number in range(1, 61):
        world.close_slots(connection, number)
        await a.screen()
        now[0] += 1.0
        done += await audit.audit()

    spent = 0.1 * done  # each audit is two readings apart
    assert 0 < spent <= 0.6 + 0.1 + SHARE * (now[0] - began)
    assert done < 20


# -- the rule, pure --------------------------------------------------------------------------------------------------------


def seen(symbol, minute, bar_s=60, content=None):
    return Seen(symbol, world.at(minute), bar_s, content)


def test_a_cooldown_leaves_out_matches_that_follow_too_soon():
    matches = [seen("A", n) for n in (1, 2, 3)] + [seen("B", 3)]

    assert [(s.symbol, s.at) for s in expected(matches, [], Rule(120, is_forming=False))] == [
        ("A", world.at(1)),
        ("A", world.at(3)),
        ("B", world.at(3)),
    ]


def test_a_cooldown_counts_from_signals_before_the_span():
    assert expected([seen("A", 2)], [seen("A", 1)], Rule(120, is_forming=False)) == []
    assert len(expected([seen("A", 3)], [seen("A", 1)], Rule(120, is_forming=False))) == 1


def test_a_forming_bar_has_one_signal():
    """
    A bar holds the slots after its open and through its close.
    """
    matches = [seen("A", n, 300) for n in (4, 5, 6, 10, 11)]

    assert [s.at for s in expected(matches, [], Rule(None, is_forming=True))] == [
        world.at(4),
        world.at(6),
        world.at(11),
    ]


def test_a_difference_says_on_which_side_it_is():
    live = [seen("A", 1, content=1), seen("B", 1, content=1), seen("D", 1)]
    replayed = [seen("B", 1, content=2), seen("C", 1)]

    assert differences(live, replayed, but=["D"]) == [
        Difference("A", world.at(1), "live"),
        Difference("B", world.at(1), "both"),
        Difference("C", world.at(1), "replayed"),
    ]
