"""The rule of turns, over random schedules of joining and serving."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.turns import IN_FLIGHT_MAX, LineFull, Turns


@dataclass(frozen=True)
class Asked:
    number: int
    user: str
    at: int
    takes: int


@dataclass
class Served:
    asked: Asked
    began: int


def simulate(asked: list[Asked], *, places: int) -> list[Served]:
    """Serve everything, event by event; in one instant ends come before joins."""
    turns: Turns[str, Asked] = Turns(places=places, waiting_max=10**6)
    served: list[Served] = []
    ends: list[tuple[int, int, str]] = []
    arrivals = sorted(asked, key=lambda a: (a.at, a.number))
    in_flight: dict[str, int] = defaultdict(int)
    while arrivals or ends:
        now = min([ends[0][0]] if ends else [], default=10**9)
        now = min(now, arrivals[0].at if arrivals else 10**9)
        while ends and ends[0][0] == now:
            _, _, user = heapq.heappop(ends)
            turns.end(user)
            in_flight[user] -= 1
        while arrivals and arrivals[0].at == now:
            request = arrivals.pop(0)
            turns.join(request.user, request)
        while (request := turns.begin()) is not None:
            served.append(Served(request, now))
            in_flight[request.user] += 1
            assert in_flight[request.user] <= IN_FLIGHT_MAX
            assert sum(in_flight.values()) <= places
            heapq.heappush(ends, (now + request.takes, request.number, request.user))
        free = sum(in_flight.values()) < places
        assert not free or all(n >= IN_FLIGHT_MAX for u, n in in_flight.items() if turns.waiting(u))
    return served


@st.composite
def schedules(draw):
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.integers(0, 40), st.integers(1, 12)),
            min_size=1,
            max_size=40,
        )
    )
    return [Asked(n, user, at, takes) for n, (user, at, takes) in enumerate(rows)]


@given(schedules(), st.integers(1, 4))
def test_every_request_is_served_once_and_each_line_in_its_order(asked, places):
    served = simulate(asked, places=places)

    assert sorted(s.asked.number for s in served) == [a.number for a in asked]
    for user in "abcd":
        order = [s.asked for s in served if s.asked.user == user]
        assert order == sorted(order, key=lambda a: (a.at, a.number))


@given(schedules(), st.integers(1, 4))
def test_a_wait_is_at_most_one_request_of_each_other_active_user(asked, places):
    """Of a user who asks for one thing at a time, whatever the others ask for."""
    served = {s.asked.number: s for s in simulate(asked, places=places)}

    for mine in asked:
        others_of_mine = [s for s in served.values() if s.asked.user == mine.user and s.asked != mine]
        if any(s.asked.at <= mine.at <= s.began + s.asked.takes for s in others_of_mine):
            continue  # its own line: it waits for itself
        began = served[mine.number].began
        longest: dict[str, int] = defaultdict(int)
        for s in served.values():
            active = s.asked.at <= began and s.began + s.asked.takes >= mine.at
            if s.asked.user != mine.user and active:
                longest[s.asked.user] = max(longest[s.asked.user], s.asked.takes)
        assert began - mine.at <= sum(longest.values())


def test_one_user_never_fills_more_than_two_of_three_places():
    turns: Turns[str, int] = Turns(places=3, waiting_max=100)
    for number in range(50):
        turns.join("attacker", number)
    assert [turns.begin(), turns.begin(), turns.begin()] == [0, 1, None]

    turns.join("victim", 99)

    assert turns.begin() == 99


def test_a_full_line_refuses_and_changes_nothing():
    turns: Turns[str, int] = Turns(places=1, waiting_max=2)
    for number in range(2):
        turns.join("a", number)

    with pytest.raises(LineFull):
        turns.join("a", 2)

    turns.join("b", 3)
    assert turns.waiting("a") == 2
    assert turns.begin() == 0


def test_who_gives_up_leaves_no_trace():
    turns: Turns[str, int] = Turns(places=1, waiting_max=2)
    turns.join("a", 1)
    turns.leave("a", 1)

    assert turns.begin() is None
    assert turns.waiting_count == 0
    assert not turns._lines


def test_a_new_request_after_the_last_one_stands_behind_who_waits():
    """Forgetting a user without requests gives no advantage."""
    turns: Turns[str, str] = Turns(places=1, waiting_max=9)
    turns.join("a", "a1")
    assert turns.begin() == "a1"
    turns.join("b", "b1")
    turns.end("a")
    turns.join("a", "a2")

    assert turns.begin() == "b1"
