"""The rule by which users share the time of a slot, with functions that only say what they take."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.interpreter.fair_time import OVERRUN_MAX, OWN_SHARE, Shares

SECONDS = 5.0
NEAR = 1e-9
users = st.integers(0, 7)
costs = st.floats(0.001, 2.0)
functions = st.lists(st.tuples(st.frozensets(users, min_size=1, max_size=3), costs), min_size=1, max_size=40)
overruns = st.floats(0.0, 0.4)
known = st.dictionaries(users, st.floats(0.0, 3.0))


def own_part(asked):
    return SECONDS * OWN_SHARE / len({user for theirs, _ in asked for user in theirs})


def needs(asked):
    """What each user's functions would take, run for that user alone."""
    needed = defaultdict(float)
    for theirs, cost in asked:
        for user in theirs:
            needed[user] += cost
    return needed


def screened(asked, rounds=1, overrun=0.0, before=None):
    """Run functions, some in each round; which of them found time, and the shares afterwards."""
    shares = Shares(SECONDS, {at: theirs for at, (theirs, _) in enumerate(asked)}, before or {})
    served = set()
    for first in range(rounds):
        for at in shares.in_turn(range(first, len(asked), rounds)):
            left, cost = shares.left(at), asked[at][1]
            if left <= 0:
                continue
            shares.charge(at, min(cost, left + overrun))
            if cost <= left:
                served.add(at)
    return served, shares


def served_users(asked, served):
    return {
        user for user in needs(asked) if all(at in served for at, (own, _) in enumerate(asked) if user in own)
    }


@given(functions, st.integers(1, 4), overruns, known)
def test_who_needs_no_more_than_the_own_part_always_gets_it(asked, rounds, overrun, before):
    """Whatever others ask, overrun, or spent before, and in whatever round it is asked for."""
    served, _ = screened(asked, rounds, overrun, before)

    modest = {user for user, need in needs(asked).items() if need <= own_part(asked) - NEAR}
    assert modest <= served_users(asked, served)


@given(
    st.lists(
        st.tuples(st.frozensets(users, min_size=1, max_size=3), st.floats(0.001, 0.02), st.integers(1, 300)),
        min_size=2,
        max_size=12,
    )
)
def test_who_needs_no_more_than_an_equal_part_gets_it_when_asked_with_the_others(groups):
    """Up to the last function of each of the others, which may reach into the common half."""
    asked = [(theirs, cost) for theirs, cost, count in groups for _ in range(count)]
    served, _ = screened(asked)

    count = len(needs(asked))
    modest = {user for user, need in needs(asked).items() if need <= SECONDS / count - count * 0.02}
    assert modest <= served_users(asked, served)


@given(functions, st.integers(1, 4), known)
def test_everybody_is_served_when_the_common_half_covers_what_goes_beyond_the_own_parts(
    asked, rounds, before
):
    served, _ = screened(asked, rounds, before=before)

    beyond = sum(max(0.0, need - own_part(asked)) for need in needs(asked).values())
    if beyond <= SECONDS * (1 - OWN_SHARE) - NEAR:
        assert len(served) == len(asked)


@given(functions, st.integers(1, 4), known)
def test_the_whole_is_never_exceeded_and_time_is_charged_once(asked, rounds, before):
    _, shares = screened(asked, rounds, before=before)

    assert shares.total <= SECONDS + NEAR
    assert sum(shares.spent.values()) == pytest.approx(shares.total)


@given(functions, st.integers(1, 4), st.floats(0.0, 3.0), known)
def test_overruns_are_bounded_for_all_users_together(asked, rounds, overrun, before):
    _, shares = screened(asked, rounds, overrun, before)

    count = len(needs(asked))
    assert shares.total <= SECONDS + count * overrun + NEAR
    assert shares.total <= SECONDS * (1 + OVERRUN_MAX) + overrun + NEAR


@given(functions, known)
def test_a_user_alone_has_the_whole(asked, before):
    alone = [(frozenset({1}), cost) for _, cost in asked]
    served, shares = screened(alone, before=before)

    if sum(cost for _, cost in alone) <= SECONDS - NEAR:
        assert len(served) == len(alone)
    else:
        assert shares.total == pytest.approx(SECONDS)


@given(functions, costs, st.frozensets(users, max_size=3))
def test_a_function_in_common_costs_nobody_more_than_one_of_their_own(asked, cost, others):
    everybody = {at: theirs for at, (theirs, _) in enumerate(asked)}
    spent = []
    for theirs in (frozenset({0}), others | {0}):
        shares = Shares(SECONDS, {**everybody, "rest": others | {0}, "new": theirs}, {})
        for at, (_, taken) in enumerate(asked):
            shares.charge(at, taken)
        had = shares.spent.get(0, 0.0), shares.left("new")
        shares.charge("new", cost)
        spent.append((shares.spent[0] - had[0], had[1]))

    (alone, left_alone), (shared, left_shared) = spent
    assert shared <= alone + NEAR
    assert left_shared >= left_alone - NEAR


@given(functions, known, st.lists(costs, min_size=40, max_size=40))
def test_every_function_has_its_turn_once(asked, before, taken):
    shares = Shares(SECONDS, {at: theirs for at, (theirs, _) in enumerate(asked)}, before)
    turns = []
    for at in shares.in_turn(range(len(asked))):
        turns.append(at)
        shares.charge(at, taken[at])

    assert sorted(turns) == list(range(len(asked)))


def test_a_crowd_that_overruns_does_not_stretch_the_slot_without_end():
    _, shares = screened([(frozenset({user}), 3.0) for user in range(40)], overrun=0.4)

    assert SECONDS < shares.total <= SECONDS * (1 + OVERRUN_MAX) + 0.4


def test_turns_go_to_who_has_spent_least():
    shares = Shares(SECONDS, {"a1": "A", "a2": "A", "a3": "A", "b1": "B", "b2": "B"}, {})
    took = {"a1": 3.0, "a2": 1.0, "a3": 1.0, "b1": 2.0, "b2": 2.0}
    turns = []
    for node in shares.in_turn(list(took)):
        turns.append(node)
        shares.charge(node, took[node])

    assert turns == ["a1", "b1", "b2", "a2", "a3"]


def test_what_is_nobodys_has_the_common_half_only():
    shares = Shares(SECONDS, {"a": "A"}, {})

    shares.charge("fresh", SECONDS)

    assert shares.left("fresh") == 0.0
    assert shares.left("a") == SECONDS * OWN_SHARE


def test_without_users_all_is_common():
    assert Shares(SECONDS, {}, {}).left("any") == SECONDS
