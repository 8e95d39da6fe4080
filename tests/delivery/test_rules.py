"""
The rules of delivery, as facts: no database, no clock.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from app.delivery.rules import addresses, messages, pacing
from app.delivery.rules.answers import RETRY_S, Answer, judge, retry_delay_s
from app.delivery.rules.quiet import quiet_until
from app.delivery.rules.taking import GATHER_S, Ready, Room, plan_taking

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
ROOM = Room(total=100, per_user=50, of_destinations={}, of_users={})


def answer(status, **given):
    return Answer(status=status, text="", took_s=0.1, **given)


def ready(**given):
    fields = {
        "destination_id": uuid.uuid4(),
        "user_id": uuid.uuid4(),
        "kind": "webhook",
        "enabled": True,
        "quiet_hours": None,
        "digest": None,
        "rate": None,
        "last_digest_at": LONG_AGO,
        "paced_until": LONG_AGO,
        "failures": 0,
        "service_key": None,
        "first_signal_at": None,
        "has_untold": False,
        "due_count": 5,
        "now": NOW,
    }
    return Ready(**(fields | given))


# -- answers ---------------------------------------------------------------------------------------------------------------


def test_attempts_are_spaced_as_stated():
    assert [retry_delay_s(n) for n in range(8)] == [0, 2, 10, 30, 120, 600, 600, 600]
    assert len(RETRY_S) == 6


@pytest.mark.parametrize("status", [301, 400, 404, 500, None])
def test_a_failure_is_tried_again_and_counts_against_the_destination(status):
    outcome = judge("webhook", answer(status), attempts=1, remaining_s=60)

    assert (outcome.state, outcome.delay_s, outcome.is_ok) == ("pending", 2, False)


def test_no_retry_is_planned_past_the_expiry():
    assert judge("webhook", answer(500), attempts=2, remaining_s=9).state == "expired"
    assert judge("webhook", answer(429, retry_after_s=20), attempts=1, remaining_s=9).state == "expired"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_throttled_destination_is_held_for_as_long_as_it_asks(status):
    outcome = judge("webhook", answer(status, retry_after_s=20), attempts=1, remaining_s=60)

    assert (outcome.state, outcome.delay_s, outcome.hold_s) == ("pending", 20, 20)


def test_429_says_nothing_against_a_destination():
    assert judge("webhook", answer(429), attempts=1, remaining_s=60).is_ok is None


def test_gone_ends_the_destination():
    assert judge("webhook", answer(410), attempts=1, remaining_s=60).disable
    assert judge("telegram", answer(403), attempts=1, remaining_s=60).disable
    assert not judge("webhook", answer(404), attempts=1, remaining_s=60).disable


def test_what_this_process_cannot_open_is_tried_again_and_says_nothing_against_the_destination():
    outcome = judge("webhook", answer(None, is_ours=True), attempts=1, remaining_s=60)

    assert (outcome.state, outcome.is_ok) == ("pending", None)


def test_a_test_is_tried_once():
    assert judge("webhook", answer(500), attempts=1, remaining_s=60, is_test=True).state == "failed"


# -- pace ------------------------------------------------------------------------------------------------------------------


def test_a_pace_allows_a_burst_and_then_one_per_interval():
    pace = pacing.Pace(interval_s=1.0, burst=3, at_once=1)
    paced = pacing.after(pace, LONG_AGO, NOW, 3)

    assert pacing.allowed(pace, LONG_AGO, NOW) == 3
    assert pacing.allowed(pace, paced, NOW) == 0
    assert pacing.next_free(pace, paced, NOW) == NOW + timedelta(seconds=1)
    assert pacing.allowed(pace, paced, NOW + timedelta(seconds=1)) == 1


def test_in_any_window_no_more_pass_than_the_pace_allows():
    pace = pacing.Pace(interval_s=0.5, burst=4, at_once=1)
    sent, paced, clock = [], LONG_AGO, NOW
    for _ in range(200):
        n = pacing.allowed(pace, paced, clock)
        paced = pacing.after(pace, paced, clock, n)
        sent += [clock] * n
        clock += timedelta(seconds=0.13)

    for at in sent:
        within = [s for s in sent if at <= s < at + timedelta(seconds=5)]
        assert len(within) <= 4 + 5 / 0.5


def test_an_owners_rate_only_slows():
    assert pacing.pace_of("telegram", {"messages": 100, "per_s": 1}) == pacing.PACES["telegram"]
    assert pacing.pace_of("webhook", {"messages": 10, "per_s": 60}).interval_s == 6


# -- quiet hours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-28T21:30Z", "2026-11-29T06:00Z"),  # 22:30 in Berlin
        ("2026-11-28T05:59Z", "2026-11-28T06:00Z"),
        ("2026-11-28T06:00Z", None),
        ("2026-11-28T20:59Z", None),
        ("2026-07-01T20:30Z", "2026-07-02T05:00Z"),  # summer time
    ],
)
def test_quiet_hours_follow_the_zone_over_midnight(now, until):
    rule = {"from": "22:00", "until": "07:00", "zone": "Europe/Berlin"}
    expected = None if until is None else datetime.fromisoformat(until)

    assert quiet_until(rule, datetime.fromisoformat(now)) == expected


# -- taking ----------------------------------------------------------------------------------------------------------------


def test_quiet_hours_hold_the_destination_until_they_end():
    one = ready(quiet_hours={"from": "11:00", "until": "13:00", "zone": "UTC"})

    plan = plan_taking([one], ROOM, {})

    assert plan.counts == {}
    assert plan.held_until == {one.destination_id: (NOW + timedelta(hours=1), "quiet hours")}


def test_one_user_gets_a_share_of_the_room_and_the_next_the_rest():
    user = uuid.uuid4()
    greedy = [ready(user_id=user, due_count=16) for _ in range(10)]
    other = ready(due_count=3)

    plan = plan_taking([*greedy, other], ROOM, {})

    assert sum(plan.counts[g.destination_id] for g in greedy if g.destination_id in plan.counts) == 50
    assert plan.counts[other.destination_id] == 3


def test_a_failing_destination_is_asked_with_one_delivery():
    one = ready(failures=2, due_count=16)

    assert plan_taking([one], ROOM, {}).counts == {one.destination_id: 1}


def test_telegram_destinations_of_one_bot_share_its_limit():
    chats = [ready(kind="telegram", service_key="bot", due_count=3) for _ in range(40)]
    used_up = NOW + timedelta(seconds=0.9)  # 27 of 30 have just been sent

    plan = plan_taking(chats, ROOM, {"bot": used_up})

    assert sum(plan.counts.values()) == 3
    assert plan.service_paced_until["bot"] > used_up
    assert sum(reason == "pace of the service" for _, reason in plan.held_until.values()) == 37


def test_the_matches_of_one_close_wait_for_each_other_and_become_one_digest():
    early = ready(digest={"per": "bar_close"}, first_signal_at=NOW - timedelta(seconds=1), due_count=0)
    complete = replace(early, first_signal_at=NOW - timedelta(seconds=GATHER_S))

    assert plan_taking([early], ROOM, {}).postponed == {
        early.destination_id: NOW + timedelta(seconds=GATHER_S - 1)
    }
    plan = plan_taking([complete], ROOM, {})
    assert plan.gathers == {early.destination_id: True}
    assert plan.counts == {early.destination_id: 1}


def test_a_digest_comes_at_most_every_n_minutes():
    one = ready(
        digest={"every_s": 900},
        first_signal_at=NOW - timedelta(seconds=60),
        last_digest_at=NOW - timedelta(seconds=300),
    )

    assert plan_taking([one], ROOM, {}).postponed == {one.destination_id: NOW + timedelta(seconds=600)}


def test_rules_that_cannot_be_read_hold_that_destination_alone():
    broken, fine = ready(quiet_hours={"from": "x"}), ready()

    plan = plan_taking([broken, fine], ROOM, {})

    assert plan.held_until[broken.destination_id][1] == "unreadable rules"
    assert fine.destination_id in plan.counts


# -- addresses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",  # noqa: S104 compared, not bound
            "224.0.0.1",
        ),
        *("255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1", "100.100.100.200", "168.63.129.16"),
        *(
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ),
        *("2002:7f00:1::", "2001:db8::1", "fd00:ec2::254"),
    ],
)
def test_what_is_not_the_public_internet_is_refused(text):
    assert addresses.refusal(addresses.address_of(text), 443, ()) is not None


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_the_public_internet_is_open_on_the_ports_of_the_web(text):
    assert addresses.refusal(addresses.address_of(text), 443, ()) is None
    assert addresses.refusal(addresses.address_of(text), 22, ()) is not None


def test_an_opening_is_for_its_range_and_its_port_alone():
    from ipaddress import ip_network

    opened = ((ip_network("10.0.0.0/8"), 9000),)

    assert addresses.refusal(ip_address("10.1.2.3"), 9000, opened) is None
    assert addresses.refusal(ip_address("10.1.2.3"), 9001, opened) is not None
    assert addresses.refusal(ip_address("192.168.0.1"), 9000, opened) is not None


# -- messages --------------------------------------------------------------------------------------------------------------


def test_a_body_stays_below_20_kb_whatever_a_filter_shows():
    row = replace(
        messages.sample_signal(NOW), shown={f"a rather long name of a value {n}": 1.5 for n in range(2000)}
    )
    one = messages.of_signal("m", row, "https://vyx.test")
    many = messages.of_digest("m", [row] * 60, [row] * 60, NOW, "https://vyx.test")

    assert len(one.body()) < messages.BODY_BYTES_MAX
    assert len(many.body()) < messages.BODY_BYTES_MAX
    assert b'"count":60' in many.body()


@pytest.mark.parametrize(
    ("symbol", "pair"), [("BTCUSDT", ("BTC", "USDT")), ("ETHBTC", ("ETH", "BTC")), ("ODD", ("ODD", ""))]
)
def test_a_symbol_is_a_pair(symbol, pair):
    assert messages.pair_of(symbol) == pair
