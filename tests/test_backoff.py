from __future__ import annotations

from app.backoff import Backoff


def test_each_wait_is_at_most_twice_the_one_before_and_never_over_the_longest():
    for _ in range(50):
        backoff = Backoff(0.5, 15)
        for longest in (0.5, 1, 2, 4, 8, 15, 15, 15):
            assert longest / 2 <= backoff.next_s() <= longest


def test_what_worked_for_a_while_starts_with_the_first_wait_again():
    backoff = Backoff(0.5, 15)
    for _ in range(5):
        backoff.next_s()

    backoff.reset()

    assert backoff.next_s() <= 0.5
