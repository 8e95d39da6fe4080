import pytest

from app.market.breaker import Breaker
from app.market.errors import BreakerOpen


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(clock=clock)


def fail(breaker, times):
    for _ in range(times):
        breaker.fail(breaker.acquire(), "it failed")


def test_four_failures_leave_it_closed(breaker):
    fail(breaker, 4)

    assert breaker.state == "closed"


def test_the_fifth_failure_opens_it_for_60_seconds(breaker, clock):
    fail(breaker, 5)

    assert breaker.state == "open"
    assert breaker.open_for_s == 60
    with pytest.raises(BreakerOpen, match=r"not asked for another 60\.0 s, because it failed") as refused:
        breaker.acquire()
    assert refused.value.retry_after_s == 60


def test_only_failures_in_a_row_count(breaker):
    fail(breaker, 4)
    breaker.succeed(breaker.acquire())
    fail(breaker, 4)

    assert breaker.state == "closed"


def test_of_50_waiting_callers_exactly_one_probes(breaker, clock):
    fail(breaker, 5)
    clock.now += 60

    let_through = []
    for _ in range(50):
        try:
            let_through.append(breaker.acquire())
        except BreakerOpen:
            continue

    assert len(let_through) == 1


def test_a_probe_that_succeeds_closes_it(breaker, clock):
    fail(breaker, 5)
    clock.now += 60
    assert breaker.state == "half_open"

    breaker.succeed(breaker.acquire())

    assert breaker.state == "closed"
    assert [breaker.acquire() for _ in range(2)]


def test_a_probe_that_fails_opens_it_again(breaker, clock):
    fail(breaker, 5)
    clock.now += 60

    fail(breaker, 1)

    assert breaker.state == "open"
    assert breaker.open_for_s == 60


def test_a_forgotten_probe_is_free_for_the_next_caller(breaker, clock):
    fail(breaker, 5)
    clock.now += 60

    breaker.forget(breaker.acquire())

    assert breaker.acquire()


def test_an_answer_from_before_it_opened_does_not_close_it(breaker):
    early = breaker.acquire()
    fail(breaker, 5)

    breaker.succeed(early)

    assert breaker.state == "open"


def test_a_failure_from_before_it_opened_does_not_end_the_probe(breaker, clock):
    early = breaker.acquire()
    fail(breaker, 5)
    clock.now += 60
    probe = breaker.acquire()

    breaker.fail(early, "late")
    breaker.succeed(probe)

    assert breaker.state == "closed"


def test_retry_after_opens_it_at_once_until_then(breaker, clock):
    breaker.hold(7, "HTTP 429")

    clock.now += 6.9
    assert breaker.state == "open"
    clock.now += 0.1
    assert breaker.state == "half_open"


def test_a_shorter_hold_does_not_shorten_a_longer_one(breaker):
    breaker.hold(600, "a ban")
    breaker.hold(7, "HTTP 429")

    assert breaker.open_for_s == 600
