"""The simulated exchange itself: it is a function of source and clock, and it keeps the real one's rules."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import WSMsgType

from app.domain import timeframes
from app.market.candles import COLUMNS, Candle, Candles, fault_of
from app.market.simulated import DumpSource, GeneratedSource, ManualClock, MarketClock, SimulatedExchange
from app.market.simulated.source import unfinished
from tests.real_market import of_symbol

MINUTE = 60_000
DAY = 86_400_000
T0 = 1_722_254_400_000  # 2024-07-29T12:00Z
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
async def web():
    async with aiohttp.ClientSession() as session:
        yield session


async def get(web, exchange, path, **params):
    async with web.get(exchange.rest_url + path, params=params) as response:
        return response.status, await response.json(), response.headers


# --- clock --------------------------------------------------------------------------------------------------------


def test_market_time_is_a_function_of_the_anchors():
    wall = [1_000.0]
    clock = MarketClock(T0, 1_000.0, 60.0, None, wall=lambda: wall[0])
    assert clock.now_ms() == T0

    wall[0] = 1_002.5

    assert clock.now_ms() == T0 + 150_000
    assert MarketClock(T0, 1_000.0, 60.0, None, wall=lambda: wall[0]).now_ms() == clock.now_ms()


def test_market_time_stands_still_at_the_end_and_before_the_anchor():
    wall = [900.0]
    clock = MarketClock(T0, 1_000.0, 60.0, T0 + MINUTE, wall=lambda: wall[0])
    assert clock.now_ms() == T0

    wall[0] = 5_000.0

    assert clock.now_ms() == T0 + MINUTE


async def test_waiting_for_market_time_takes_wall_time_divided_by_speed():
    clock = MarketClock(
        T0, asyncio.get_running_loop().time(), 6_000.0, None, wall=asyncio.get_running_loop().time
    )

    await clock.wait_until(T0 + MINUTE)

    assert clock.now_ms() >= T0 + MINUTE


async def test_nobody_is_woken_after_the_market_ended():
    clock = MarketClock(T0, 0.0, 1.0, T0 + MINUTE)
    await clock.wait_until(T0 + MINUTE)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await clock.wait_until(T0 + MINUTE + 1)


# --- sources ------------------------------------------------------------------------------------------------------


def test_a_generated_market_is_a_function_of_its_seed():
    one, again, other = (GeneratedSource(seed, anchor_ms=T0) for seed in (1, 1, 2))
    again.at(T0 + 40 * DAY)  # asked in another order

    assert list(one.at(T0).rows()) == list(again.at(T0).rows())
    assert list(one.minutes("BTCUSDT", T0, T0 + MINUTE).rows()) == [one_of(again.at(T0), "BTCUSDT")]
    assert one_of(other.at(T0), "BTCUSDT") != one_of(one.at(T0), "BTCUSDT")


def one_of(candles, symbol):
    return next(of_symbol(candles, symbol).rows())


def test_a_generated_market_does_not_depend_on_where_it_was_entered():
    early, late = GeneratedSource(1, anchor_ms=T0), GeneratedSource(1, anchor_ms=T0 + 3 * DAY)

    assert list(early.at(T0 + 3 * DAY).rows()) == list(late.at(T0 + 3 * DAY).rows())


def test_a_generated_market_has_30_days_of_history_and_no_end():
    source = GeneratedSource(1, anchor_ms=T0)

    assert source.first_ms == timeframes.bar_open_ms(T0, "1d") - 30 * DAY
    assert source.end_ms is None
    assert len(source.minutes("BTCUSDT", 0, source.first_ms + DAY)) == 1_440
    assert len(source.at(T0 + 5_000 * DAY)) == len(source.symbols)
    assert len(source.minutes("NOSUCHUSDT", T0, T0 + DAY)) == 0
    assert len(source.at(source.first_ms - MINUTE)) == 0


@pytest.mark.parametrize("symbol", ["BTCUSDT", "PEPEUSDT", "PSGUSDT", "币安人生USDT", "USDCUSDT"])
def test_generated_candles_are_valid_and_each_opens_at_the_last_close(symbol):
    candles = GeneratedSource(3, anchor_ms=T0).minutes(symbol, T0 - 10 * DAY, T0 + 3 * DAY).checked()

    assert (np.diff(candles.open_time) == MINUTE).all()
    np.testing.assert_array_equal(candles.open[1:], candles.close[:-1])
    quiet = candles.volume == 0
    for name in ("open", "high", "low"):
        np.testing.assert_array_equal(getattr(candles, name)[quiet], candles.close[quiet])
    assert (candles.trades[quiet] == 0).all()


def test_generated_prices_and_volumes_look_like_a_market():
    source = GeneratedSource(1, anchor_ms=T0)
    daily_moves, bursts, ranges = [], [], []
    for symbol in source.symbols[:20]:
        candles = source.minutes(symbol, T0 - 28 * DAY, T0)
        closes = candles.close[1_439::1_440]
        daily_moves.append(np.std(np.diff(np.log(closes))))
        bursts.append((candles.volume > 5 * np.median(candles.volume)).mean())
        ranges.append(closes.max() / closes.min())

    assert 0.02 < np.median(daily_moves) < 0.08
    assert 0.002 < np.median(bursts) < 0.1
    assert 1.05 < np.median(ranges) < 3


def test_a_candle_under_way_never_contradicts_itself():
    whole = Candle("BTCUSDT", T0, 10.0, 13.0, 9.0, 12.0, 6.0, 66.0, 9)

    looks = [unfinished(whole, passed / 60) for passed in range(1, 61)]

    assert all(fault_of(look) is None for look in looks)
    assert all(
        a.high <= b.high and a.low >= b.low and a.volume <= b.volume for a, b in itertools.pairwise(looks)
    )
    assert looks[-1] == whole


def test_a_market_of_dumps_needs_a_candle():
    with pytest.raises(ValueError, match="at least one candle"):
        DumpSource(Candles.empty())


def test_a_market_of_dumps_answers_by_symbol_and_by_minute(candle):
    rows = [
        candle(open_time=T0),
        candle(open_time=T0 + MINUTE),
        candle(symbol="ETHUSDT", open_time=T0 + MINUTE),
    ]
    source = DumpSource(Candles.from_rows(rows))

    assert list(source.minutes("BTCUSDT", T0, T0 + MINUTE).rows()) == rows[:1]
    assert list(source.at(T0 + MINUTE).rows()) == rows[1:]
    assert len(source.at(T0 + 2 * MINUTE)) == 0
    assert (source.first_ms, source.end_ms) == (T0, T0 + 2 * MINUTE)


# --- REST ---------------------------------------------------------------------------------------------------------


async def test_rows_have_12_columns_in_the_exchanges_format(web, exchange):
    _, rows, _ = await get(web, exchange, "/api/v3/klines", symbol="BTCUSDT", interval="5m", limit=2)

    for row in rows:
        assert len(row) == 12
        assert [type(value) for value in row] == [int, str, str, str, str, str, int, str, int, str, str, str]
        assert row[6] == row[0] + 300_000 - 1
        assert len(row[1].partition(".")[2]) == 8


async def test_the_newest_row_is_the_unfinished_candle(web, exchange, clock, source):
    _, rows, _ = await get(web, exchange, "/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=1)
    whole = one_of(source.at(T0), "BTCUSDT")

    assert rows[0][0] == T0
    assert rows[0][6] > clock.now_ms()
    assert float(rows[0][5]) == pytest.approx(whole.volume / 2)


async def test_a_candle_begins_with_its_first_moment(web, exchange, clock):
    clock.advance_to(T0 + MINUTE)
    _, rows, _ = await get(web, exchange, "/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=1)

    assert rows[0][0] == T0


async def test_times_may_be_microseconds(web, exchange):
    _, rows, _ = await get(
        web,
        exchange,
        "/api/v3/klines",
        symbol="BTCUSDT",
        interval="1m",
        endTime=(T0 - MINUTE) * 1_000,
        limit=1,
    )

    assert rows[0][0] == T0 - MINUTE


async def test_a_window_looks_past_an_outage_for_its_rows(web, exchange):
    exchange.faults = exchange.faults.changed({"hole": {"from": T0 - 100 * MINUTE, "to": T0 - MINUTE}})

    _, newest, _ = await get(
        web, exchange, "/api/v3/klines", symbol="BTCUSDT", interval="1m", endTime=T0 - 1, limit=5
    )
    start = T0 - 102 * MINUTE
    _, oldest, _ = await get(
        web, exchange, "/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=start, limit=3
    )

    assert [(T0 - row[0]) // MINUTE for row in newest] == [104, 103, 102, 101, 1]
    assert [(T0 - row[0]) // MINUTE for row in oldest] == [102, 101, 1]


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "NOSUCH", "interval": "1m"}, -1121),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "0"}, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "colour": "red"}, -1101),
        ("exchangeInfo", {"symbol": "NOSUCH"}, -1121),
        ("exchangeInfo", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ("exchangeInfo", {"symbols": '["BTCUSDT","BTCUSDT"]'}, -1151),
        ("ticker/24hr", {"symbols": "BTCUSDT"}, -1100),
    ],
)
async def test_wrong_parameters_get_the_exchanges_codes(web, exchange, path, params, code):
    status, body, _ = await get(web, exchange, f"/api/v3/{path}", **params)

    assert (status, body["code"]) == (400, code)


async def test_exchange_info_can_be_narrowed(web, exchange):
    exchange.faults.symbol_status = {"ETHUSDT": "BREAK"}

    _, some, _ = await get(web, exchange, "/api/v3/exchangeInfo", symbols='["BTCUSDT","ETHUSDT"]')
    _, halted, _ = await get(web, exchange, "/api/v3/exchangeInfo", symbolStatus="BREAK")

    assert [(s["symbol"], s["status"], s["baseAsset"]) for s in some["symbols"]] == [
        ("BTCUSDT", "TRADING", "BTC"),
        ("ETHUSDT", "BREAK", "ETH"),
    ]
    assert {s["symbol"] for s in halted["symbols"]} == {"ETHUSDT", "FTTUSDT"}
    assert some["rateLimits"][0]["limit"] == 6_000


async def test_the_day_of_a_symbol_is_summed_up(web, exchange, source, clock):
    _, ticker, _ = await get(web, exchange, "/api/v3/ticker/24hr", symbol="BTCUSDT")
    day = source.minutes("BTCUSDT", clock.now_ms() - DAY, T0)

    assert float(ticker["volume"]) == pytest.approx(
        day.volume.sum() + one_of(source.at(T0), "BTCUSDT").volume / 2
    )
    assert float(ticker["openPrice"]) == day.open[0]


@pytest.mark.parametrize(
    ("params", "weight"),
    [({"symbol": "BTCUSDT"}, 2), ({"symbols": json.dumps(["BTCUSDT", "ETHUSDT"])}, 2), ({}, 80)],
)
async def test_a_days_summary_weighs_by_symbols(web, exchange, params, weight):
    _, _, headers = await get(web, exchange, "/api/v3/ticker/24hr", **params)

    assert headers["X-MBX-USED-WEIGHT-1M"] == str(weight)


async def test_spent_weight_is_429_then_418_and_the_clock_minute_forgives_only_the_first(web, source, clock):
    wall = [1_000_040.0]
    async with SimulatedExchange(source, clock, weight_limit=2, wall=lambda: wall[0]) as exchange:
        answers = [await get(web, exchange, "/api/v3/ping") for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert answers[2][2]["Retry-After"] == "40"
        assert answers[2][1]["code"] == -1003

        wall[0] += 40
        assert (await get(web, exchange, "/api/v3/ping"))[0] == 200

        for _ in range(30):
            status, body, headers = await get(web, exchange, "/api/v3/ping")
        assert status == 418
        assert headers["Retry-After"] == "120"
        assert "IP banned until" in body["msg"]
        wall[0] += 60
        assert (await get(web, exchange, "/api/v3/ping"))[0] == 418
        wall[0] += 60
        assert (await get(web, exchange, "/api/v3/ping"))[0] == 200


async def test_faults_are_set_shown_and_cleared_over_http(web, exchange):
    control = exchange.rest_url + "/_control"
    async with web.post(control, json={"status": 429, "retry_after": 7, "status_count": 1}) as response:
        assert response.status == 200
    status, _, headers = await get(web, exchange, "/api/v3/ping")
    assert (status, headers["Retry-After"]) == (429, "7")
    assert (await get(web, exchange, "/api/v3/ping"))[0] == 200

    async with web.post(control, json={"skew_s": 600}) as response:
        assert (await response.json())["retry_after"] == 7
    assert (await get(web, exchange, "/api/v3/time"))[1]["serverTime"] == T0 + 630_000

    async with web.delete(control) as response:
        assert (await response.json())["skew_s"] == 0


@pytest.mark.parametrize("body", ['{"colour": 1}', '{"status": "x"}', "nonsense", "[]"])
async def test_an_unknown_fault_is_refused(web, exchange, body):
    async with web.post(exchange.rest_url + "/_control", data=body) as response:
        assert response.status == 400
        assert (await response.json())["msg"]


async def test_time_stands_still_at_the_end_of_the_candles(web, candle):
    rows = [candle(open_time=T0 + i * MINUTE) for i in range(4)]
    source = DumpSource(Candles.from_rows(rows))
    clock = MarketClock(T0, 0.0, 1.0, source.end_ms)
    async with SimulatedExchange(source, clock) as exchange:
        _, shown, _ = await get(web, exchange, "/_clock")
        _, time, _ = await get(web, exchange, "/api/v3/time")
        _, klines, _ = await get(web, exchange, "/api/v3/klines", symbol="BTCUSDT", interval="1m")

    end = T0 + 4 * MINUTE
    assert shown == {
        "market_now": end,
        "speed": 1.0,
        "ended": True,
        "first": T0,
        "end": end,
        "closed": end,
        "next": None,
    }
    assert time == {"serverTime": end}
    assert [row[0] for row in klines] == [row.open_time for row in rows]


# --- streams ------------------------------------------------------------------------------------------------------


async def test_streams_can_be_subscribed_to_listed_and_left(web, exchange, clock, source):
    async with web.ws_connect(exchange.stream_url + "/ws") as socket:
        await socket.send_json(
            {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m", "ethusdt@kline_1m"], "id": 1}
        )
        assert await socket.receive_json() == {"result": None, "id": 1}
        await socket.send_json({"method": "UNSUBSCRIBE", "params": ["ethusdt@kline_1m"], "id": 2})
        assert await socket.receive_json() == {"result": None, "id": 2}
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 3})
        assert await socket.receive_json() == {"result": ["btcusdt@kline_1m"], "id": 3}

        clock.advance_to(T0 + MINUTE)
        event = await socket.receive_json()

    row = one_of(source.at(T0), "BTCUSDT")
    assert (event["e"], event["E"], event["s"]) == ("kline", T0 + MINUTE, "BTCUSDT")
    assert (event["k"]["t"], event["k"]["T"], event["k"]["x"]) == (T0, T0 + MINUTE - 1, True)
    assert float(event["k"]["c"]) == row.close


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("nonsense", {"code": 3}),
        ('{"method": "DANCE", "id": 7}', {"code": 0, "id": 7}),
        ('{"method": "SUBSCRIBE", "params": [1], "id": 7}', {"code": 2, "id": 7}),
    ],
)
async def test_a_wrong_request_on_a_stream_is_answered(web, exchange, message, answer):
    async with web.ws_connect(exchange.stream_url + "/stream") as socket:
        await socket.send_str(message)
        received = await socket.receive_json()

    assert answer.items() <= received.items()


async def test_a_request_above_4096_bytes_is_ignored_without_a_word(web, exchange):
    names = [f"symbol{i}usdt@kline_1m" for i in range(200)]
    async with web.ws_connect(exchange.stream_url + "/ws") as socket:
        await socket.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})

        assert await socket.receive_json() == {"result": [], "id": 2}


async def test_more_than_five_messages_a_second_end_the_connection(web, exchange):
    async with web.ws_connect(exchange.stream_url + "/ws") as socket:
        for number in range(6):
            await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
        async for _ in socket:
            pass

    assert socket.close_code == 1008


async def test_more_than_1024_streams_are_refused(web, exchange):
    url = exchange.stream_url + "/stream?streams=" + "/".join(f"{i}@t" for i in range(1_025))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await web.ws_connect(url)

    assert refused.value.status == 400


async def test_who_does_not_answer_pings_is_cut_off(web, source, clock):
    async with (
        SimulatedExchange(source, clock, ping_s=0.02, pong_timeout_s=0.05) as exchange,
        web.ws_connect(exchange.stream_url + "/ws", autoping=False) as socket,
    ):
        kinds = {(await socket.receive()).type for _ in range(4)}

    assert WSMsgType.PING in kinds
    assert kinds & {WSMsgType.CLOSED, WSMsgType.ERROR}


async def test_a_connection_ends_at_its_greatest_age(web, source, clock):
    async with (
        SimulatedExchange(source, clock, connection_max_s=0.05) as exchange,
        web.ws_connect(exchange.stream_url + "/ws") as socket,
    ):
        message = await socket.receive()

    assert message.type is WSMsgType.CLOSE
    assert socket.close_code == 1001


async def test_connections_can_be_cut_and_a_shutdown_announced_over_http(web, exchange):
    control = exchange.rest_url + "/_control"
    async with web.ws_connect(exchange.stream_url + "/stream?streams=btcusdt@kline_1m") as socket:
        (await web.post(control, json={"shutdown": True})).release()
        event = await socket.receive_json()
        assert (event["stream"], event["data"]["e"]) == ("!serverShutdown", "serverShutdown")

        (await web.post(control, json={"disconnect": True})).release()
        assert (await socket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)

    assert socket.close_code == 1006


async def test_another_process_continues_at_the_same_market_time(source, client, exchange, clock):
    before = await client.klines("BTCUSDT", "1m", limit=10)
    async with (
        SimulatedExchange(GeneratedSource(7, anchor_ms=T0), ManualClock(clock.now_ms())) as second,
        type(client)(second.rest_url) as other,
    ):
        after = await other.klines("BTCUSDT", "1m", limit=10)

    for name in COLUMNS[1:]:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


# --- the process --------------------------------------------------------------------------------------------------


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "app.market.simulated", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def dump(folder, minutes=8):
    rows = (f"{T0 + i * MINUTE},10,12,9,11,5,{T0 + (i + 1) * MINUTE - 1},55,3,0,0,0" for i in range(minutes))
    (folder / "BTCUSDT-1m-2024-07.csv").write_text("\n".join(rows))


async def test_a_file_market_begins_at_a_quarter_and_the_process_dies_with_its_parents_pipe(tmp_path, web):
    dump(tmp_path)
    with start("--market", str(tmp_path), "--speed", "0.001") as process:
        url = process.stdout.readline().strip()
        async with web.get(url + "/_clock") as response:
            shown = await response.json()
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stderr.read() == ""

    assert T0 + 2 * MINUTE <= shown["market_now"] < T0 + 2 * MINUTE + 100
    assert shown["end"] == T0 + 8 * MINUTE


async def test_the_process_shows_the_time_its_anchors_say_and_ends_on_sigterm(tmp_path, web):
    dump(tmp_path)
    anchor = datetime.fromtimestamp(1_000_000_000, UTC).isoformat()
    with start(
        "--market", str(tmp_path), "--from", "2024-07-29T12:04:00Z", "--anchor-wall", anchor
    ) as process:
        url = process.stdout.readline().strip()
        async with web.get(url + "/_clock") as response:
            assert (await response.json())["ended"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--market", "/nowhere"], "/nowhere does not exist. Name a directory of dump files"),
        (["--speed", "0"], "0 is not above 0"),
        (["--from", "2024-07-29"], "is not an instant with a time zone"),
        (
            ["--market", "{dump}", "--from", "2030-01-01T00:00:00Z"],
            "is outside the candles, which span 2024-07-29T12:00:00",
        ),
    ],
)
def test_a_market_that_cannot_be_served_is_said_in_one_sentence(tmp_path, arguments, message):
    dump(tmp_path)
    with start(*(argument.replace("{dump}", str(tmp_path)) for argument in arguments)) as process:
        assert process.wait(10) == 2
        error = process.stderr.read()

    assert message in error
    assert "Traceback" not in error
