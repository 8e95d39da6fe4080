"""The client's streams against the simulated exchange: what arrives, what is noticed, and that nothing is lost."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import aiohttp
import pytest

from app.market.candles import Candle, Candles, RefusedCandle
from app.market.client import ExchangeClient
from app.market.errors import AnswerInvalid
from app.market.simulated import DumpSource, MarketClock, SimulatedExchange
from app.market.streams import StreamDown, StreamLimits, StreamUp, closed_candle, shard_symbols

MINUTE = 60_000
T0 = 1_722_254_400_000  # 2024-07-29T12:00Z
SYMBOLS = ("BTCUSDT", "ETHUSDT", "PSGUSDT", "币安人生USDT")


class Listener:
    """Reads a client's stream, and keeps what it has read."""

    def __init__(self, events):
        self._events = events
        self.candles = []
        self.ups = []
        self.downs = []

    async def until(self, condition):
        """Read on until *condition* of this listener is true."""
        async with asyncio.timeout(20):
            while not condition(self):
                event = await anext(self._events)
                {Candle: self.candles, StreamUp: self.ups, StreamDown: self.downs}[type(event)].append(event)

    async def until_up(self, count=3):
        await self.until(lambda seen: len(seen.ups) >= count)

    async def until_candles(self, count):
        await self.until(lambda seen: len(seen.candles) >= count)


class Watched(ExchangeClient):
    """A client whose looks at the exchange's clock can be waited for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._looks = asyncio.Queue()

    async def server_time(self):
        now_ms = await super().server_time()
        self._looks.put_nowait(now_ms)
        return now_ms

    async def looks_at_the_clock(self, count):
        async with asyncio.timeout(20):
            for _ in range(count):
                await self._looks.get()


@contextlib.asynccontextmanager
async def listening(client, symbols=SYMBOLS):
    async with contextlib.aclosing(client.stream_klines(symbols).events()) as events:
        listener = Listener(events)
        await listener.until_up(min(3, len(symbols)))
        yield listener


def expected(source, open_ms, symbols=SYMBOLS):
    return {row for row in source.at(open_ms).rows() if row.symbol in symbols}


async def test_closed_candles_arrive_as_the_source_has_them(client, clock, source):
    async with listening(client) as listener:
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(4)
        clock.advance_to(T0 + 2 * MINUTE)
        await listener.until_candles(8)

    assert set(listener.candles[:4]) == expected(source, T0)
    assert set(listener.candles[4:]) == expected(source, T0 + MINUTE)


async def test_symbols_are_spread_over_three_connections(client):
    async with listening(client) as listener:
        assert sorted(name for up in listener.ups for name in up.symbols) == sorted(SYMBOLS)
        assert [up.hole for up in listener.ups] == [True, True, True]


async def test_a_minute_that_passed_quickly_arrives_too(client, clock, source):
    async with listening(client, ("BTCUSDT",)) as listener:
        clock.advance_to(T0 + 30 * MINUTE)
        await listener.until_candles(30)

    assert [row.open_time for row in listener.candles] == [T0 + i * MINUTE for i in range(30)]


async def test_unfinished_candles_are_passed_over(source, clock):
    async with (
        SimulatedExchange(source, clock, mid_candles=True) as exchange,
        ExchangeClient(exchange.rest_url, exchange.stream_url) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        for second in range(32, 62, 2):
            clock.advance_to(T0 + second * 1_000)
        await listener.until_candles(1)

    assert set(listener.candles) == expected(source, T0, ("BTCUSDT",))


async def test_a_candle_that_comes_twice_is_passed_on_once(client, clock, exchange, source):
    exchange.faults.double = True
    async with listening(client) as listener:
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(4)
        exchange.faults.double = False
        clock.advance_to(T0 + 2 * MINUTE)
        await listener.until_candles(8)

    assert set(listener.candles) == expected(source, T0) | expected(source, T0 + MINUTE)


async def test_order_within_a_minute_does_not_matter(client, clock, exchange, source):
    exchange.faults.reverse = True
    async with listening(client) as listener:
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(4)

    assert set(listener.candles) == expected(source, T0)


async def test_a_close_that_never_came_is_had_by_rest(client, clock, exchange, source):
    exchange.faults.drop_close = ("ETHUSDT",)
    async with listening(client) as listener:
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(3)
        clock.advance_to(T0 + MINUTE + 5_000)
        repaired = await client.klines("ETHUSDT", "1m", start_ms=T0, end_ms=T0)

    assert {*listener.candles, *repaired.rows()} == expected(source, T0)


async def test_a_late_close_still_arrives(client, clock, exchange, source):
    exchange.faults.late_close_s = 30
    async with listening(client, ("BTCUSDT",)) as listener:
        clock.advance_to(T0 + MINUTE)
        clock.advance_to(T0 + MINUTE + 29_000)
        exchange.faults.late_close_s = 0
        clock.advance_to(T0 + 2 * MINUTE)
        await listener.until_candles(2)

    assert {row.open_time for row in listener.candles} == {T0, T0 + MINUTE}


async def test_after_a_broken_connection_rest_fills_the_hole(client, clock, exchange, source):
    async with listening(client) as listener:
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(4)
        exchange.streams.cut_all()
        await listener.until(lambda seen: len(seen.downs) == 3)
        await listener.until_up(6)
        clock.advance_to(T0 + 3 * MINUTE)
        await listener.until_candles(12)

    assert [up.hole for up in listener.ups[3:]] == [True] * 3
    assert all("was closed" in down.reason for down in listener.downs)


async def test_what_closed_while_nothing_was_connected_is_missing_until_rest_is_asked(
    client, clock, exchange, source
):
    async with listening(client, ("BTCUSDT",)) as listener:
        exchange.streams.cut_all()
        clock.advance_to(T0 + 5 * MINUTE)  # before the client has even noticed
        await listener.until_up(2)
        filled = await client.klines_between("BTCUSDT", "1m", T0, T0 + 5 * MINUTE)
        clock.advance_to(T0 + 6 * MINUTE)
        await listener.until_candles(1)

    assert [row.open_time for row in listener.candles] == [T0 + 5 * MINUTE]
    assert filled.open_time.tolist() == [T0 + i * MINUTE for i in range(5)]


async def test_an_announced_shutdown_replaces_the_connection_before_it_ends(client, clock, exchange, source):
    async with listening(client) as listener:
        exchange.streams.announce_shutdown()
        await listener.until_up(6)
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(4)

    assert [up.hole for up in listener.ups[3:]] == [False] * 3
    assert listener.downs == []
    assert set(listener.candles) == expected(source, T0)


async def test_an_old_connection_is_replaced_without_a_hole(exchange, clock, source):
    limits = StreamLimits(stagger_s=0, age_max_s=0.05, overlap_s=0.01)
    async with (
        ExchangeClient(exchange.rest_url, exchange.stream_url, stream_limits=limits) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        for minute in range(1, 6):
            ups = len(listener.ups)
            await listener.until_up(ups + 1)
            clock.advance_to(T0 + minute * MINUTE)
            await listener.until_candles(minute)

    assert [row.open_time for row in listener.candles] == [T0 + i * MINUTE for i in range(5)]
    assert [up.hole for up in listener.ups[1:]] == [False] * len(listener.ups[1:])
    assert listener.downs == []


async def test_a_connection_without_any_sign_of_life_is_replaced(exchange):
    exchange.faults.silence = True
    limits = StreamLimits(stagger_s=0, silence_max_s=0.05, retry_wait_s=0.01)
    async with (
        ExchangeClient(exchange.rest_url, exchange.stream_url, stream_limits=limits) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        await listener.until_up(2)

    assert listener.downs[0].reason == "nothing was heard for 0.05 s, not even a ping"
    assert listener.ups[1].hole


async def test_an_open_connection_without_events_is_replaced_when_the_market_goes_on(exchange, clock):
    limits = StreamLimits(stagger_s=0, quiet_max_s=0.05, retry_wait_s=0.01)
    exchange.faults.drop_close = ("*",)
    async with (
        Watched(exchange.rest_url, exchange.stream_url, stream_limits=limits) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        await client.looks_at_the_clock(2)
        clock.advance_to(T0 + 10 * MINUTE)
        await listener.until(lambda seen: seen.downs)

    assert "no event came for 0.05 s while the exchange's clock went on" in listener.downs[0].reason


async def test_a_market_that_stands_still_is_no_fault_of_the_connection(exchange, clock):
    limits = StreamLimits(stagger_s=0, quiet_max_s=0.02, retry_wait_s=0.01)
    async with (
        Watched(exchange.rest_url, exchange.stream_url, stream_limits=limits) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        await client.looks_at_the_clock(5)
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(1)

    assert listener.downs == []
    assert len(listener.ups) == 1


async def test_the_last_candle_of_a_market_arrives_and_then_time_stands_still(candle):
    source = DumpSource(Candles.from_rows(candle(open_time=T0 + i * MINUTE) for i in range(5)))
    wall = [0.0]
    clock = MarketClock(T0, 0.0, 6_000.0, source.end_ms, wall=lambda: wall[0])
    async with (
        SimulatedExchange(source, clock) as exchange,
        ExchangeClient(
            exchange.rest_url, exchange.stream_url, stream_limits=StreamLimits(stagger_s=0)
        ) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        wall[0] = 1e6
        await listener.until_candles(5)
        end_ms = await client.server_time()

    assert [row.open_time for row in listener.candles] == [T0 + i * MINUTE for i in range(5)]
    assert end_ms == T0 + 5 * MINUTE


async def test_the_timeout_of_requests_does_not_end_streams(exchange, clock):
    limits = StreamLimits(stagger_s=0)
    async with (
        ExchangeClient(exchange.rest_url, exchange.stream_url, timeout_s=0.1, stream_limits=limits) as client,
        listening(client, ("BTCUSDT",)) as listener,
    ):
        await asyncio.sleep(0.3)  # that time passes is what is tested
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(1)

    assert listener.downs == []


async def test_a_client_waits_for_an_exchange_that_is_not_there_yet(source, clock, monkeypatch):
    failed = asyncio.Event()
    monkeypatch.setattr("app.market.streams._log", SimpleNamespace(warning=lambda *_, **__: failed.set()))
    async with SimulatedExchange(source, clock) as first:
        port = int(first.rest_url.rpartition(":")[2])
    limits = StreamLimits(stagger_s=0, retry_wait_s=0.01, retry_wait_max_s=0.05)
    async with (
        ExchangeClient(first.rest_url, first.stream_url, stream_limits=limits) as client,
        contextlib.aclosing(client.stream_klines(("BTCUSDT",)).events()) as events,
    ):
        listener = Listener(events)
        waiting = asyncio.create_task(listener.until_up(1))
        await failed.wait()
        assert not waiting.done()
        async with SimulatedExchange(source, clock, port=port):
            await waiting
            clock.advance_to(T0 + MINUTE)
            await listener.until_candles(1)


async def test_closing_the_stream_leaves_no_task_behind(client, clock):
    async with listening(client) as listener:
        clock.advance_to(T0 + MINUTE)
        await listener.until_candles(4)
        assert coroutines() >= {"_keep", "_follow", "_read", "_watch"}

    assert coroutines().isdisjoint({"_keep", "_follow", "_read", "_watch"})


def coroutines():
    """Names of what runs on this loop."""
    return {task.get_coro().__name__ for task in asyncio.all_tasks()}


def test_484_symbols_take_three_connections_with_short_urls(data):
    names = (data / "symbols" / "binance_spot_usdt_trading_2026-08-24.txt").read_text().split()

    shards = shard_symbols("wss://data-stream.binance.vision", names)

    assert len(names) == 484
    assert len(shards) == 3
    assert max(len(url) for url, _ in shards) < 4_000
    assert max(len(symbols) for _, symbols in shards) <= 170
    assert sorted(name for _, symbols in shards for name in symbols) == sorted(names)
    assert any("%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@kline_1m" in url for url, _ in shards)


def test_long_names_take_more_connections():
    shards = shard_symbols("ws://x", [f"币安人生币安人生{i}USDT" for i in range(160)])

    assert len(shards) > 3
    assert max(len(url) for url, _ in shards) <= 4_000


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_symbols_take_few_connections(count):
    assert len(shard_symbols("ws://x", ["AUSDT", "BUSDT"][:count])) == count


def test_real_frames_are_read(data):
    lines = (data / "payloads" / "cryptofeed" / "BINANCE_US.ws.1.0").read_text().splitlines()
    frames = [line.partition(": ")[2].encode() for line in lines[1:]]

    closed = [candle for frame in frames if (candle := closed_candle(frame)) is not None]

    events = [json.loads(frame)["data"] for frame in frames if b'"x":true' in frame]
    assert events
    assert [(c.symbol, c.open_time, c.close, c.trades) for c in closed] == [
        (e["s"], e["k"]["t"], float(e["k"]["c"]), e["k"]["n"]) for e in events
    ]


def test_captured_frames_of_unfinished_candles_are_passed_over(data):
    lines = (data / "payloads" / "misc" / "kline_events_captured.jsonl").read_bytes().splitlines()

    assert [closed_candle(line) for line in lines if b'"x":false' in line] == [None, None]


GOOD = (
    b'{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1722254460001,"s":"BTCUSDT","k":{"t":1722254400000,'
    b'"T":1722254459999,"s":"BTCUSDT","i":"1m","f":-1,"L":-1,"o":"5.0","c":"5.0","h":"5.0","l":"5.0","v":"0.0",'
    b'"n":0,"x":true,"q":"0.0","V":"0.0","Q":"0.0","B":"0"}}}'
)


def test_a_closed_candle_without_trades_is_a_candle():
    assert closed_candle(GOOD) == Candle("BTCUSDT", T0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"h":"5.0"', b'"h":"4.0"', "high 4 is below low 5"),
        (b'"i":"1m"', b'"i":"5m"', "its interval is 5m"),
        (b'"h":"5.0",', b"", "it cannot be read: Object missing required field `h`"),
        (b'"h":"5.0"', b'"h":null', "it cannot be read"),
        (b'"t":1722254400000', b'"t":1722254400001', "open time 1722254400001 is not a multiple of 1m"),
    ],
)
def test_a_candle_that_cannot_be_is_refused_for_the_bar_it_stands_for(old, new, what):
    frame = GOOD.replace(old, new)

    refused = closed_candle(frame)

    assert isinstance(refused, RefusedCandle)
    assert (refused.symbol, refused.open_time) == ("BTCUSDT", T0)
    assert what in refused.what
    assert refused.raw == frame.decode()


def test_a_frame_that_does_not_say_whose_candle_it_closes_is_an_error():
    with pytest.raises(AnswerInvalid, match="no kline event"):
        closed_candle(b'{"k":{"x":true}}')


async def test_a_frame_that_is_no_candle_ends_its_connection(client, clock, exchange, monkeypatch, source):
    async with listening(client, ("BTCUSDT",)) as listener:
        monkeypatch.setattr("app.market.simulated.streams.kline_event", lambda *_, **__: '{"k":{"x":true}}')
        clock.advance_to(T0 + MINUTE)
        await listener.until(lambda seen: seen.downs)
        monkeypatch.undo()
        await listener.until_up(2)
        clock.advance_to(T0 + 2 * MINUTE)
        await listener.until_candles(1)

    assert "no kline event" in listener.downs[0].reason
    assert Candles.from_rows(listener.candles).open_time.tolist() == [T0 + MINUTE]


async def test_the_real_rules_of_a_connection_hold_for_our_urls(exchange, source):
    """The URL the client builds is understood by a plain aiohttp socket: what we stream is what the URL names."""
    [(url, _)] = shard_symbols(exchange.stream_url, ["币安人生USDT"])
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert (await socket.receive_json())["result"] == ["币安人生usdt@kline_1m"]
