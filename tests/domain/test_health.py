from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.health import Condition, Health, MarketFacts, condition_of, health_of, lag_s
from app.domain.lifecycle import TraderState

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
FINE = MarketFacts(market_at=NOON + timedelta(seconds=30), newest_closed=NOON)
SECOND = timedelta(seconds=1)


def health(state=TraderState.RUNNING, facts=FINE, *, is_owned=True, screened_through=NOON, last_error=None):
    return health_of(
        state, is_owned=is_owned, screened_through=screened_through, last_error=last_error, facts=facts
    )


@pytest.mark.parametrize("state", [TraderState.STOPPED, TraderState.STOPPING])
def test_a_trader_that_is_not_active_is_well_whatever_the_market_does(state):
    outage = replace(FINE, newest_closed_is_outage=True)
    assert health(state, outage, is_owned=False, screened_through=None) == (Health.OK, None)


def test_a_trader_in_error_fails_with_its_error():
    assert health(TraderState.ERROR, last_error="node 3") == (Health.FAILING, "node 3")


def test_a_running_trader_in_step_is_well_and_says_nothing():
    assert health() == (Health.OK, None)


@pytest.mark.parametrize("state", [TraderState.STARTING, TraderState.RUNNING])
def test_a_trader_nobody_holds_waits(state):
    assert health(state, is_owned=False)[0] is Health.WAITING


def test_a_starting_trader_waits_until_its_plan_is_loaded():
    assert health(TraderState.STARTING)[0] is Health.WAITING


@pytest.mark.parametrize(("behind_s", "expected"), [(0, Health.OK), (120, Health.OK), (180, Health.LAGGING)])
def test_more_than_two_bars_behind_is_lagging(behind_s, expected):
    assert health(screened_through=NOON - behind_s * SECOND)[0] is expected


def test_at_a_high_speed_two_seconds_of_real_time_are_forgiven():
    fast = replace(FINE, speed=600.0)
    assert health(facts=fast, screened_through=NOON - 1200 * SECOND)[0] is Health.OK
    assert health(facts=fast, screened_through=NOON - 1260 * SECOND)[0] is Health.LAGGING


def test_an_outage_in_the_newest_slot_is_told_with_its_reason():
    outage = replace(FINE, newest_closed_is_outage=True, outage_reason="no candle by +5 s")
    assert health(facts=outage) == (
        Health.DATA_OUTAGE,
        "no market data for the newest slot: no candle by +5 s",
    )


@pytest.mark.parametrize(("open_s", "expected"), [(120, Health.OK), (121, Health.DATA_OUTAGE)])
def test_a_slot_that_stays_open_is_an_outage(open_s, expected):
    facts = replace(FINE, market_at=NOON + 60 * SECOND, oldest_open=NOON + (60 - open_s) * SECOND)
    assert health(facts=facts)[0] is expected


@pytest.mark.parametrize(("silent_s", "expected"), [(180, Health.OK), (181, Health.DATA_OUTAGE)])
def test_a_ledger_that_stopped_is_an_outage(silent_s, expected):
    """Every worker is gone: nobody lags behind a ledger that does not move, yet nothing is screened."""
    facts = replace(FINE, market_at=NOON + silent_s * SECOND)
    assert health(facts=facts)[0] is expected


def test_until_a_first_slot_has_closed_a_running_trader_waits_with_the_reason():
    """Running is proved from the first second: nothing has been screened, and it says what the market waits for."""
    held = MarketFacts(stage="held", stage_reason="Binance refuses this address (451)")
    assert health(facts=held) == (Health.WAITING, "Binance refuses this address (451)")
    assert health(facts=MarketFacts())[0] is Health.WAITING


def test_a_trader_that_has_not_been_screened_at_the_first_slot_waits():
    facts = replace(FINE, first_slot=NOON)
    assert health(facts=facts, screened_through=NOON - 60 * SECOND)[0] is Health.WAITING
    assert health(facts=facts, screened_through=None)[0] is Health.WAITING
    assert health(facts=facts)[0] is Health.OK


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FINE, (Condition.OK, None)),
        (MarketFacts(stage="history", stage_reason="history is loading, 1,240 of 4,800"),
         (Condition.STARTING, "history is loading, 1,240 of 4,800")),
        (replace(FINE, stage="held", stage_reason="banned"), (Condition.DEGRADED, "banned")),
        (replace(FINE, market_at=NOON + 600 * SECOND),
         (Condition.DEGRADED, "no slot has closed since 2024-05-01 12:00 UTC")),
    ],
)  # fmt: skip
def test_the_market_says_how_it_stands(facts, expected):
    assert condition_of(facts) == expected


class TestEndedMarket:
    ENDED = MarketFacts(
        market_at=NOON, ends_at=NOON, newest_closed=NOON, oldest_open=NOON - timedelta(hours=1)
    )

    def test_it_is_well_and_says_so(self):
        assert health(facts=self.ENDED) == (Health.OK, "the market's candles have ended")

    def test_who_has_not_screened_its_end_lags(self):
        assert health(facts=self.ENDED, screened_through=NOON - timedelta(hours=1))[0] is Health.LAGGING


class TestLag:
    def test_it_is_market_time_behind_the_newest_closed_slot(self):
        assert lag_s(TraderState.RUNNING, NOON - 90 * SECOND, FINE) == 90.0

    def test_it_is_never_negative(self):
        assert lag_s(TraderState.RUNNING, NOON + 60 * SECOND, FINE) == 0.0

    @pytest.mark.parametrize("state", [TraderState.STOPPED, TraderState.STOPPING, TraderState.ERROR])
    def test_who_is_not_active_has_none(self, state):
        assert lag_s(state, NOON - timedelta(days=1), FINE) == 0.0

    def test_before_the_first_slot_there_is_none(self):
        assert lag_s(TraderState.STARTING, None, FINE) == 0.0
        assert lag_s(TraderState.STARTING, NOON, MarketFacts()) == 0.0
