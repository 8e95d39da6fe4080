"""The client's REST side against the simulated exchange, and against payloads of the real one."""

import asyncio
import gzip
import json

import aiohttp
import numpy as np
import pytest

from app.domain import timeframes
from app.market import client as client_module
from app.market import errors
from app.market.breaker import Breaker
from app.market.candles import COLUMNS, Candles
from app.market.client import ExchangeClient, OwnTime
from app.market.kline_rows import read_rows
from app.market.simulated import Hole, Impossible, SimulatedExchange
from app.market.simulated.rollup import roll_up
from app.market.universe import ExchangeInfo

MINUTE = 60_000
HOUR = 60 * MINUTE
T0 = 1_722_254_400_000  # 2024-07-29T12:00Z


def assert_same(got, expected):
    for name in COLUMNS[1:]:
        if name in ("volume", "quote_volume"):
            # Sums leave the exchange with 8 decimals.
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-12, atol=1e-8)
        else:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


async def test_the_exchange_clock_is_asked(client, clock):
    assert await client.server_time() == clock.now_ms()


async def test_the_unfinished_candle_is_left_out(client, source):
    candles = await client.klines("BTCUSDT", "1m", limit=3)

    assert candles.open_time.tolist() == [T0 - 2 * MINUTE, T0 - MINUTE]
    assert_same(candles, source.minutes("BTCUSDT", T0 - 2 * MINUTE, T0))


async def test_a_candle_is_closed_by_the_exchanges_clock_not_by_its_place(client, clock):
    clock.advance_to(T0 + MINUTE)

    candles = await client.klines("BTCUSDT", "1m", limit=2)

    assert candles.open_time.tolist() == [T0 - MINUTE, T0]


async def test_a_window_in_the_past_costs_no_look_at_the_clock(client, exchange):
    await client.settled_time()
    before = exchange.request_count

    candles = await client.klines("BTCUSDT", "1m", start_ms=T0 - HOUR, end_ms=T0 - MINUTE)

    assert len(candles) == 60
    assert exchange.request_count == before + 1


async def test_an_explicit_end_beyond_what_is_known_asks_the_clock_again(client, clock):
    await client.settled_time()
    clock.advance_to(T0 + MINUTE + 1)

    candles = await client.klines("BTCUSDT", "1m", start_ms=T0, end_ms=T0)

    assert candles.open_time.tolist() == [T0]


@pytest.mark.parametrize(
    ("window", "first", "count"),
    [
        ({"start_ms": T0 - HOUR, "limit": 5}, T0 - HOUR, 5),
        ({"start_ms": T0 - HOUR + 1, "limit": 5}, T0 - HOUR + MINUTE, 5),
        ({"end_ms": T0 - HOUR, "limit": 5}, T0 - HOUR - 4 * MINUTE, 5),
        ({"start_ms": T0 - HOUR, "end_ms": T0 - HOUR + MINUTE}, T0 - HOUR, 2),
        ({}, T0 - 999 * MINUTE, 999),
    ],
)
async def test_windows_follow_the_exchanges_rules(client, window, first, count):
    candles = await client.klines("ETHUSDT", "1m", **window)

    assert candles.open_time.tolist() == [first + i * MINUTE for i in range(count)]


@pytest.mark.parametrize("timeframe", ["3m", "5m", "15m", "1h", "4h", "1d"])
async def test_every_interval_is_the_roll_up_of_its_minutes(client, source, timeframe):
    length = timeframes.length_ms(timeframe)
    last = timeframes.bar_open_ms(T0, timeframe)
    expected = roll_up(source.minutes("SOLUSDT", last - 5 * length, last), timeframe)

    candles = await client.klines("SOLUSDT", timeframe, limit=6)

    assert candles.timeframe == timeframe
    assert_same(candles, expected)


async def test_long_histories_come_page_by_page(client, source, exchange):
    candles = await client.klines_between("BTCUSDT", "1m", T0 - 2_500 * MINUTE, T0 + HOUR)

    assert_same(candles, source.minutes("BTCUSDT", T0 - 2_500 * MINUTE, T0))


async def test_history_before_the_first_candle_is_empty(client, source):
    candles = await client.klines(
        "BTCUSDT", "1m", start_ms=source.first_ms - HOUR, end_ms=source.first_ms - MINUTE
    )

    assert len(candles) == 0


async def test_symbols_need_not_be_ascii(client, source):
    candles = await client.klines("币安人生USDT", "1m", limit=10)

    assert candles.symbols == ("币安人生USDT",)
    assert_same(candles, source.minutes("币安人生USDT", T0 - 9 * MINUTE, T0))


async def test_rows_are_absent_in_an_outage(client, exchange):
    exchange.faults.hole = Hole(T0 - 10 * MINUTE, T0 - 5 * MINUTE)

    candles = await client.klines("BTCUSDT", "1m", limit=8)

    ago = (T0 - candles.open_time) // MINUTE
    assert ago.tolist() == [12, 11, 5, 4, 3, 2, 1]


async def test_the_quote_volumes_of_a_day_come_by_symbol(client, source):
    volumes = await client.quote_volumes()

    assert set(volumes) == set(source.symbols)
    assert volumes["BTCUSDT"] > volumes["PSGUSDT"] > 0


async def test_our_count_of_weight_is_the_exchanges(client, exchange):
    await client.exchange_info()
    await client.quote_volumes()
    await client.klines("BTCUSDT", "1m")

    async with (
        aiohttp.ClientSession() as session,
        session.get(exchange.rest_url + "/api/v3/ping") as response,
    ):
        assert int(response.headers["X-MBX-USED-WEIGHT-1M"]) == client.budget.used + 1


async def test_a_replica_behind_the_same_address_is_seen_in_the_header(client, exchange):
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            (await session.get(exchange.rest_url + "/api/v3/exchangeInfo")).release()

    await client.server_time()

    assert client.budget.used == 61


# Every answer of market-data.md §3: what is raised, how often is asked, what the breaker does.
@pytest.mark.parametrize(
    ("status", "kind", "fault", "asked", "state"),
    [
        (429, errors.RateLimited, "limits", 1, "open"),
        (418, errors.Banned, "limits", 1, "open"),
        (403, errors.Blocked, "limits", 1, "open"),
        (451, errors.RegionRefused, "ours", 1, "open"),
        (500, errors.ExchangeUnavailable, "theirs", 3, "closed"),
        (502, errors.ExchangeUnavailable, "theirs", 3, "closed"),
        (503, errors.ExchangeUnavailable, "theirs", 3, "closed"),
        (504, errors.ExchangeUnavailable, "theirs", 3, "closed"),
        (404, errors.RequestInvalid, "ours", 1, "closed"),
    ],
)
async def test_each_answer_has_its_error_and_is_asked_again_only_when_theirs(
    client, exchange, *, status, kind, fault, asked, state
):
    exchange.faults.status = status

    with pytest.raises(kind) as raised:
        await client.server_time()

    assert type(raised.value) is kind
    assert raised.value.fault == fault
    assert f"HTTP {status}" in str(raised.value)
    assert exchange.request_count == asked
    assert client.breaker.state == state


@pytest.mark.parametrize(
    ("status", "retry_after", "waits"),
    [(429, 17, 17), (418, 600, 600), (429, None, 60), (403, None, 300), (451, None, 3600)],
)
async def test_told_to_wait_nothing_is_asked_until_then(
    client, exchange, breaker_clock, *, status, retry_after, waits
):
    exchange.faults.status, exchange.faults.status_count = status, 1
    exchange.faults.retry_after = retry_after
    with pytest.raises(errors.ExchangeError):
        await client.server_time()

    breaker_clock.now += waits - 0.5
    with pytest.raises(errors.BreakerOpen, match=f"HTTP {status}"):
        await client.server_time()
    assert exchange.request_count == 1

    breaker_clock.now += 0.5
    assert await client.server_time() == exchange.now_ms()
    assert client.breaker.state == "closed"


async def test_a_ban_without_retry_after_is_read_from_its_text(client, exchange):
    exchange.faults.status = 418

    with pytest.raises(errors.Banned) as banned:
        await client.server_time()

    assert 115 < banned.value.retry_after_s < 121


async def test_one_failure_of_theirs_is_passed_over(client, exchange):
    exchange.faults.status, exchange.faults.status_count = 503, 2

    assert await client.server_time() == exchange.now_ms()
    assert exchange.request_count == 3


async def test_five_failures_stop_the_asking_for_a_minute_and_one_probe_resumes_it(
    client, exchange, breaker_clock
):
    exchange.faults.status = 500
    with pytest.raises(errors.ExchangeUnavailable):
        await client.server_time()
    with pytest.raises(errors.BreakerOpen, match="HTTP 500 on time"):
        await client.server_time()
    assert exchange.request_count == 5

    exchange.faults.status = None
    breaker_clock.now += 60
    assert await client.server_time() == exchange.now_ms()
    assert exchange.request_count == 6


async def test_of_50_requests_waiting_for_the_exchange_one_asks_whether_it_is_back(
    client, exchange, breaker_clock
):
    client.breaker.hold(60, "it failed")
    breaker_clock.now += 60

    answers = await asyncio.gather(*(client.server_time() for _ in range(50)), return_exceptions=True)

    assert exchange.request_count == 1
    assert sum(isinstance(answer, errors.BreakerOpen) for answer in answers) == 49


async def test_a_cancelled_probe_does_not_block_the_next(client, exchange, breaker_clock):
    client.breaker.hold(60, "it failed")
    breaker_clock.now += 60
    exchange.faults.delay_s = 30
    with pytest.raises(TimeoutError):  # cancels it
        await asyncio.wait_for(client.server_time(), 0.05)
    exchange.faults.delay_s = 0

    assert await client.server_time() == exchange.now_ms()


@pytest.mark.parametrize(
    ("symbol", "interval", "code"), [("NOSUCHUSDT", "1m", -1121), ("btcusdt", "1m", -1121), ("", "1m", -1102)]
)
async def test_what_we_ask_wrongly_is_not_asked_again(client, exchange, symbol, interval, code):
    await client.settled_time()

    with pytest.raises(errors.RequestInvalid) as refused:
        await client.klines(symbol, interval)

    assert (refused.value.status, refused.value.code) == (400, code)
    assert exchange.request_count == 2
    assert client.breaker.state == "closed"


async def test_an_unknown_interval_is_refused_before_asking(client, exchange):
    with pytest.raises(ValueError, match="'1M' is not a timeframe"):
        await client.klines("BTCUSDT", "1M")

    assert exchange.request_count == 0


async def test_an_answer_that_is_not_json_is_said_so(client, exchange):
    exchange.faults.garbage = True

    with pytest.raises(errors.AnswerInvalid, match="something else than documented"):
        await client.server_time()


async def test_an_exchange_that_is_not_there_is_unavailable():
    async with ExchangeClient("http://127.0.0.1:1", retry_wait_s=0.001) as lonely:
        with pytest.raises(errors.ExchangeUnavailable, match=r"did not answer: time failed: Cannot connect"):
            await lonely.server_time()


async def test_an_answer_that_does_not_come_is_unavailable(exchange):
    exchange.faults.delay_s = 30
    async with ExchangeClient(exchange.rest_url, timeout_s=0.05, attempts=1) as hasty:
        with pytest.raises(errors.ExchangeUnavailable, match=r"no answer within 0\.05 s"):
            await hasty.server_time()


async def test_an_impossible_candle_is_named(clock, candle):
    class Broken:
        symbols = ("BTCUSDT",)
        first_ms = T0 - HOUR
        end_ms = None

        def minutes(self, *_):
            return Candles.from_rows([candle(open_time=T0 - MINUTE, high=1.0)])

        def at(self, *_):
            return Candles.empty()

    async with SimulatedExchange(Broken(), clock) as exchange, ExchangeClient(exchange.rest_url) as asking:
        with pytest.raises(
            errors.CandleInvalid,
            match="1m candle of BTCUSDT at 2024-07-29T11:59:00Z is invalid: high 1 is below",
        ):
            await asking.klines("BTCUSDT", "1m", start_ms=T0 - MINUTE, end_ms=T0 - MINUTE)


async def test_a_client_is_used_inside_async_with():
    with pytest.raises(RuntimeError, match="async with"):
        await ExchangeClient("http://127.0.0.1:1").server_time()


def test_real_klines_are_read(data):
    body = (data / "payloads" / "nautilus" / "http_spot_market_klines.json").read_bytes()

    candles = read_rows("BTCUSDT", "1m", body, settled_ms=2**53, on_refused=None)

    assert next(candles.rows())[1:] == (
        1634943780000, 60685.22, 60729.84, 60670.90, 60719.27, 21.63272, 1313200.0134041, 617,
    )  # fmt: skip


def test_the_real_exchange_info_is_read(data):
    body = gzip.decompress((data / "payloads" / "cryptofeed" / "BINANCE.0.gz").read_bytes())
    info = client_module._decoded(client_module._INFO, body[body.index(b'{"timezone') :].split(b"\n")[0])

    trading = [s for s in info.symbols if s.quote_asset == "USDT" and s.status == "TRADING"]
    assert (len(info.symbols), len(trading)) == (1_695, 315)
    assert isinstance(info, ExchangeInfo)


async def test_every_known_error_body_has_its_error(data):
    expected = {429: errors.RateLimited, 418: errors.Banned, 403: errors.Blocked}
    for line in (data / "payloads" / "misc" / "error_bodies.jsonl").read_text().splitlines():
        case = json.loads(line)
        body = case["body"].encode() if case.get("body_is_html") else json.dumps(case["body"]).encode()
        status, breaker = case["http"], Breaker()
        client = ExchangeClient("http://127.0.0.1:1", breaker=breaker)

        error = await client._refused(breaker.acquire(), "klines", client_module._Answer(status, None, body))

        default = errors.ExchangeUnavailable if status >= 500 else errors.RequestInvalid
        assert type(error) is expected.get(status, default), line


async def test_a_row_counts_as_closed_when_two_clocks_have_passed_its_end_by_a_margin(exchange, clock):
    """An exchange whose clock runs half a minute ahead sends the unfinished minute as if it had closed: our clock knows better."""
    clock.advance_to(T0 + 3 * MINUTE + 40_000)
    exchange.faults.skew_s = 30.0
    own_ms = T0 + 3 * MINUTE + 40_000

    async def own_time():
        return OwnTime(own_ms)

    async with ExchangeClient(
        exchange.rest_url, exchange.stream_url, own_time=own_time, margin_s=1.0
    ) as client:
        settled_ms = await client.settled_time()
        rows = await client.klines("BTCUSDT", "1m", start_ms=T0, end_ms=T0 + 10 * MINUTE)

    assert settled_ms == own_ms - 1_000
    assert rows.open_time.tolist() == [T0, T0 + MINUTE, T0 + 2 * MINUTE]


async def test_at_the_end_of_a_market_nothing_is_under_way(exchange, clock):
    """Time stands still at the end of the last minute: its row is closed without a margin."""
    clock.advance_to(T0 + MINUTE)

    async def own_time():
        return OwnTime(T0 + MINUTE, has_ended=True)

    async with ExchangeClient(
        exchange.rest_url, exchange.stream_url, own_time=own_time, margin_s=1.0
    ) as client:
        rows = await client.klines("BTCUSDT", "1m", start_ms=T0, end_ms=T0)

    assert rows.open_time.tolist() == [T0]


async def test_impossible_rows_are_passed_on_and_the_others_taken(exchange):
    """Without a taker the first one is an error; with one the page is asked for twice, and the rest is used."""
    exchange.faults.impossible = (Impossible("BTCUSDT", "null_field", open_ms=T0 - 2 * MINUTE),)
    refused = []
    async with ExchangeClient(exchange.rest_url, exchange.stream_url) as client:
        with pytest.raises(errors.AnswerInvalid):
            await client.klines("BTCUSDT", "1m", start_ms=T0 - 3 * MINUTE, end_ms=T0 - MINUTE)
        rows = await client.klines_between("BTCUSDT", "1m", T0 - 3 * MINUTE, T0, on_refused=refused.append)

    assert rows.open_time.tolist() == [T0 - 3 * MINUTE, T0 - MINUTE]
    assert [(r.symbol, r.timeframe, r.open_time) for r in refused] == [("BTCUSDT", "1m", T0 - 2 * MINUTE)]
    assert "null" in refused[0].raw


async def test_holds_and_answers_are_passed_to_the_record(exchange):
    """Each refusal with its status and time; what the record says counts, and an answer ends it."""
    record = Record(longer_s=0.0)
    async with ExchangeClient(exchange.rest_url, exchange.stream_url, record=record) as client:
        await client.ping()
        exchange.faults.status, exchange.faults.retry_after = 418, 7_200
        with pytest.raises(errors.Banned):
            await client.ping()
        with pytest.raises(errors.BreakerOpen):
            await client.ping()

    assert record.seen == ["answered", (418, 7_200.0)]
    assert exchange.request_count == 2


async def test_the_record_may_lengthen_a_hold(exchange):
    """A repeated refusal waits twice as long: the record knows of the one before."""
    exchange.faults.status, exchange.faults.retry_after = 429, 5
    async with ExchangeClient(
        exchange.rest_url, exchange.stream_url, record=Record(longer_s=600.0)
    ) as client:
        with pytest.raises(errors.RateLimited) as limited:
            await client.ping()

        assert limited.value.retry_after_s == 600
        assert client.breaker.open_for_s == pytest.approx(600, abs=5)


class Record:
    """Remembers what it was told."""

    def __init__(self, longer_s):
        self.seen = []
        self.longer_s = longer_s

    async def hold(self, status, wait_s, _reason):
        self.seen.append((status, wait_s))
        return max(wait_s, self.longer_s)

    async def answered(self):
        self.seen.append("answered")
