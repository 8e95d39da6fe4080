from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, timedelta

import httpx2
import pytest

from app.coordination.hints import Hints
from app.http.application import make_application, openapi_document
from app.preview.job import PreviewJob
from app.preview.process import EvaluatingProcess
from app.store.rate_limits import Limit
from app.web import make_service
from tests import world
from tests.in_process import in_process_filters
from tests.preview.conftest import FIRST, LAST, LATE, OUTAGE, seed_candles

RISING = 'b = bars("1m")\nshow(opened=b.open)\nsignal(b.close > b.open)\n'


@pytest.fixture(scope="module")
def filters():
    with in_process_filters() as filters:
        yield filters


@pytest.fixture
async def service(make_settings, connection, filters):
    """A web process with the real compiler, over stored candles."""
    seed_candles(connection)
    async with make_service(make_settings(), filters) as service:
        await service.feed.has_horizon.wait()
        yield service


@pytest.fixture
async def http(service):
    transport = httpx2.ASGITransport(make_application(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test", timeout=60) as client:
        yield client


@pytest.fixture
async def machine(service, connection):
    """Answers each preview whose job stands in the queue, as a worker would."""
    hints = Hints(service.pool)
    job = PreviewJob(service.pool, hints, [EvaluatingProcess(wall_limit_s=60)])

    async def work():
        while True:
            await job.run()
            await asyncio.sleep(0.01)

    working = asyncio.create_task(work())
    yield
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await hints.close()
    await job.close()


def text(at):
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


async def run(http, user, filter_=RISING, **fields):
    return await http.post("/api/v1/execute-filter", json={"filter": filter_, **fields}, headers=user.headers)


async def make_trader(http, user, filter_=RISING, **fields):
    response = await http.post(
        "/api/v1/traders", json={"name": "t", "filter": filter_, **fields}, headers=user.headers
    )
    assert response.status_code == 201, response.text
    return response.json()["id"]


async def explain(http, user, trader_id, **query):
    response = await http.get(f"/api/v1/traders/{trader_id}/explain", params=query, headers=user.headers)
    assert response.status_code == 200, response.text
    return response.json()


def cover(connection, trader_id, first=FIRST, through=LAST):
    """As if a machine had screened the trader over all of history."""
    with world.without_triggers(connection):
        connection.execute(
            "insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through) values (%s, 1, 1, 'm', %s, %s)",
            (trader_id, first, through),
        )


def add_stored_signal(connection, trader_id, symbol, at, plan_hash=None):
    connection.execute("select vyx.keep_signal_partition(%s)", (at,))
    connection.execute(
        """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)
           select id, user_id, %s, (plan_summary ->> 'trigger')::vyx.timeframe, %s, 1, coalesce(%s, plan_hash), 1, now() from public.traders where id = %s""",
        (symbol, at, plan_hash, trader_id),
    )


# -- execute-filter -------------------------------------------------------------------------------------------------------


async def test_a_preview_says_since_when_candles_of_a_timeframe_are_stored(http, user, machine, connection):
    """A value that reads 15m is missing until their first candle has closed, and there from then on."""
    begins = FIRST + timedelta(hours=2)
    connection.execute("delete from vyx.candles where timeframe = '15m' and open_time < %s", (begins,))
    source = 'm, c = bars("1m"), bars("15m")\nshow(coarse=c.close)\nsignal(m.close != 1.5)\n'

    whole = (await run(http, user, source, bars=250, symbols=["AAAUSDT"])).json()
    late = (await run(http, user, source, bars=20, symbols=["AAAUSDT"])).json()

    assert (whole["history_begins"], late["history_begins"]) == ({"15m": text(begins)}, {})
    first_close = text(begins + timedelta(minutes=15))
    assert next(h["triggered_at"] for h in whole["hits"] if h["values"]["coarse"] is not None) == first_close
    assert late["hits"] == whole["hits"][-len(late["hits"]) :]


async def test_a_filter_is_run_over_recent_history(http, user, machine, connection):
    response = await run(http, user, bars=30)

    body = response.json()
    assert response.status_code == 200, body
    assert (body["trigger"], body["bars"], body["symbols"], body["truncated"]) == ("1m", 30, 4, False)
    assert body["hit_count"] == len(body["hits"])
    stored = connection.execute(
        """select s.symbol, c.open_time + interval '1 min', c.close, c.open from vyx.candles c join vyx.symbols s using (symbol_id)
            where timeframe = '1m' and close > open and open_time >= %s order by c.open_time, symbol_id""",
        (LAST - timedelta(minutes=30),),
    ).fetchall()
    assert [(h["symbol"], h["triggered_at"], h["price"], h["values"]["opened"]) for h in body["hits"]] == [
        (symbol, text(at.astimezone(UTC)), close, opened) for symbol, at, close, opened in stored
    ]


async def test_more_than_a_thousand_hits_are_cut_to_the_newest(http, user, machine):
    body = (await run(http, user, 'b = bars("1m")\nsignal(b.high >= b.close)', bars=1000)).json()

    assert body["truncated"] is True
    assert len(body["hits"]) == 1000
    assert body["hit_count"] > 1000
    assert body["hits"][-1]["triggered_at"] == text(LAST)


async def test_a_preview_leaves_no_trader_and_no_signal(http, user, machine, connection):
    await run(http, user)

    assert connection.execute("select count(*) from public.traders").fetchone() == (0,)
    assert connection.execute("select count(*) from public.signals").fetchone() == (0,)


async def test_a_filter_that_does_not_compile_has_diagnostics(http, user, kind):
    response = await run(http, user, 'signal(bars("1m").close > nope)')

    assert response.status_code == 422
    assert kind(response) == "filter-invalid"
    assert response.json()["diagnostics"][0]["line"] == 1


async def test_an_unknown_symbol_is_refused_by_name(http, user, kind):
    response = await run(http, user, symbols=["AAAUSDT", "NOPEUSDT"])

    assert (response.status_code, kind(response)) == (422, "request-invalid")
    assert response.json()["symbols"] == ["NOPEUSDT"]


@pytest.mark.parametrize("bars", [0, 1001, "many", None])
async def test_bars_are_one_to_a_thousand(http, user, kind, bars):
    response = await run(http, user, bars=bars)

    assert (response.status_code, kind(response)) == (422, "request-invalid")


async def test_the_future_is_refused(http, user, kind):
    response = await run(http, user, until="2099-01-01T00:00:00Z")

    assert (response.status_code, kind(response)) == (422, "request-invalid")
    assert "future" in response.json()["detail"]


async def test_before_history_nothing_is_found(http, user, machine):
    body = (await run(http, user, until="2001-01-01T00:00:00Z")).json()

    assert (body["bars"], body["hits"], body["hit_count"]) == (0, [], 0)


async def test_without_a_machine_the_request_ends_as_timeout(http, user, kind, monkeypatch):
    monkeypatch.setattr("app.preview.request.WAIT_S", 0.3)

    response = await run(http, user)

    assert (response.status_code, kind(response)) == (504, "timeout")


async def test_an_evaluation_that_took_too_long_is_a_timeout(http, user, kind, connection):
    waiting = asyncio.create_task(run(http, user))
    while not connection.execute(
        "update vyx.previews set state = 'timeout', problem = 'It took too long.', ended_at = now() where state = 'waiting'"
    ).rowcount:
        await asyncio.sleep(0.01)

    response = await waiting

    assert (response.status_code, kind(response)) == (504, "timeout")


async def test_the_row_and_its_job_are_one_transaction(http, user, connection, monkeypatch):
    monkeypatch.setattr("app.preview.request.WAIT_S", 0.1)
    await run(http, user)

    (previews,) = connection.execute("select count(*) from vyx.previews").fetchone()
    jobs = connection.execute("select task_name, queue_name from procrastinate.procrastinate_jobs").fetchall()
    assert (previews, jobs) == (1, [("preview", "preview")])


async def test_previews_are_limited_per_user(http, user, make_user, kind, monkeypatch):
    monkeypatch.setattr("app.preview.request.PREVIEW", Limit("preview", 2, timedelta(seconds=60)))
    refused = {"symbols": ["NOPEUSDT"]}
    for _ in range(2):
        assert (await run(http, user, **refused)).status_code == 422

    response = await run(http, user, **refused)

    assert (response.status_code, kind(response)) == (429, "rate-limited")
    assert int(response.headers["retry-after"]) > 50
    assert (await run(http, make_user(), **refused)).status_code == 422


async def test_nobody_previews_without_a_token(http):
    assert (await http.post("/api/v1/execute-filter", json={"filter": RISING})).status_code == 401


# -- explain --------------------------------------------------------------------------------------------------------------

QUIET = FIRST + timedelta(minutes=100)


def rises(connection, symbol, at):
    """Whether the stored bar that closed then rose."""
    return connection.execute(
        "select close > open from vyx.candles join vyx.symbols using (symbol_id) where timeframe = '1m' and symbol = %s and open_time = %s",
        (symbol, at - timedelta(minutes=1)),
    ).fetchone()[0]


def instants(connection, symbol, *pattern):
    """The first slot of a run of bars that rise (True) or fall (False) like *pattern*; the slot of its last bar."""
    for minute in range(10, 110):
        slots = [FIRST + timedelta(minutes=minute + i) for i in range(len(pattern))]
        if [rises(connection, symbol, at) for at in slots] == list(pattern):
            return slots[-1]
    raise AssertionError(pattern)


async def test_a_match_is_explained_with_its_terms_values_and_bars(http, user, connection):
    trader = await make_trader(
        http, user, 'b = bars("1m")\nshow(opened=b.open)\nsignal(b.close > b.open and b.volume > 0)\n'
    )
    cover(connection, trader)
    at = instants(connection, "AAAUSDT", True)

    told = await explain(http, user, trader, symbol="aaausdt", at=text(at))

    row = connection.execute(
        "select open, high, low, close, volume from vyx.candles where symbol_id = 1 and timeframe = '1m' and open_time = %s",
        (at - timedelta(minutes=1),),
    ).fetchone()
    assert told == {
        "trader_id": trader,
        "symbol": "AAAUSDT",
        "at": text(at),
        "matched": True,
        "reason": None,
        "revision": None,
        "terms": [
            {"text": "b.close > b.open", "line": 3, "value": True},
            {"text": "b.volume > 0", "line": 3, "value": True},
            {"text": "opened=b.open", "line": 2, "value": row[0]},
        ],
        "values": {"opened": row[0]},
        "bars": {
            "1m": dict(
                zip(
                    ("open_time", "open", "high", "low", "close", "volume"),
                    (text(at - timedelta(minutes=1)), *row),
                    strict=True,
                )
            )
        },
        "forming": {},
    }


async def test_a_false_condition_names_its_term_and_line(http, user, connection):
    trader = await make_trader(
        http, user, 'b = bars("1m")\nup = b.close > b.open\nsignal(\n    b.volume > 0\n    and up\n)\n'
    )
    cover(connection, trader)

    told = await explain(
        http, user, trader, symbol="AAAUSDT", at=text(instants(connection, "AAAUSDT", False))
    )

    assert told["matched"] is False
    assert told["reason"] == "condition false: line 2: up = b.close > b.open"


async def test_too_little_history_names_what_has_no_value(http, user, connection):
    trader = await make_trader(
        http, user, 'b = bars("1m")\nsignal(b.close > 0 and ta.sma(b.close, 30) > 0)\n'
    )
    cover(connection, trader)

    told = await explain(http, user, trader, symbol="AAAUSDT", at=text(FIRST + timedelta(minutes=12)))

    assert told["matched"] is False
    assert (
        told["reason"]
        == "not enough history: line 2: ta.sma(b.close, 30) > 0: ta.sma(30) has no value after 12 bars of 1m"
    )


async def test_a_missing_bar_is_said_with_what_is_seen_instead(http, user, connection):
    trader = await make_trader(http, user)
    cover(connection, trader)

    told = await explain(http, user, trader, symbol="BBBUSDT", at=text(FIRST + timedelta(minutes=121)))

    assert told["matched"] is False
    assert told["reason"] == "bar missing: BBBUSDT has no 1m candle of its own that closed then"
    assert told["bars"]["1m"]["volume"] == 0


async def test_a_candle_that_came_late_is_no_match(http, user, connection):
    trader = await make_trader(http, user, 'b = bars("1m")\nsignal(b.high >= b.close)')
    cover(connection, trader)
    at = text(FIRST + timedelta(minutes=LATE + 1))

    assert (await explain(http, user, trader, symbol="CCCUSDT", at=at))["reason"].startswith(
        "bar missing: the candle"
    )
    assert (await explain(http, user, trader, symbol="DDDUSDT", at=at))["matched"] is True


async def test_an_outage_is_said_with_the_ledgers_reason(http, user, connection):
    trader = await make_trader(http, user)
    cover(connection, trader)

    told = await explain(
        http, user, trader, symbol="AAAUSDT", at=text(FIRST + timedelta(minutes=OUTAGE[1] + 1))
    )

    assert told["reason"] == "outage: no candles: test"


async def test_a_symbol_that_is_not_the_traders_is_said(http, user, connection):
    trader = await make_trader(http, user, symbols=["BBBUSDT"])

    told = await explain(http, user, trader, symbol="AAAUSDT", at=text(QUIET))

    assert told["reason"] == "symbol not among the trader's: it screens BBBUSDT"


@pytest.mark.parametrize("at", [FIRST + timedelta(minutes=101), FIRST + timedelta(minutes=100, seconds=30)])
async def test_between_two_bars_the_trader_is_not_due(http, user, at):
    trader = await make_trader(http, user, RISING.replace("1m", "5m"))

    told = await explain(http, user, trader, symbol="AAAUSDT", at=text(at))

    assert told["reason"] == f"not due: {text(at)} is no multiple of 5m, how often the trader is due"


async def test_on_enter_matches_only_the_first_bar(http, user, connection):
    trader = await make_trader(http, user, frequency="on_enter")
    cover(connection, trader)

    entering = await explain(
        http, user, trader, symbol="AAAUSDT", at=text(instants(connection, "AAAUSDT", False, True))
    )
    staying = await explain(
        http, user, trader, symbol="AAAUSDT", at=text(instants(connection, "AAAUSDT", True, True))
    )

    assert entering["matched"] is True
    assert staying["matched"] is False
    assert staying["reason"] == "not entering: the condition was true on the bar before already"


async def test_within_a_cooldown_the_earlier_signal_is_named(http, user, connection):
    trader = await make_trader(http, user, frequency={"cooldown_s": 600})
    cover(connection, trader)
    at = instants(connection, "AAAUSDT", True)
    earlier = at - timedelta(minutes=4)
    add_stored_signal(connection, trader, "AAAUSDT", earlier)
    add_stored_signal(connection, trader, "AAAUSDT", at - timedelta(minutes=20))

    told = await explain(http, user, trader, symbol="AAAUSDT", at=text(at))

    assert (
        told["reason"]
        == f"cooldown: since the signal of {text(earlier)}, until {text(earlier + timedelta(minutes=10))}"
    )


async def test_at_the_end_of_a_cooldown_it_matches_again(http, user, connection):
    trader = await make_trader(http, user, frequency={"cooldown_s": 600})
    cover(connection, trader)
    at = instants(connection, "AAAUSDT", True)
    add_stored_signal(connection, trader, "AAAUSDT", at - timedelta(minutes=10))

    assert (await explain(http, user, trader, symbol="AAAUSDT", at=text(at)))["matched"] is True


async def test_a_slot_nobody_screened_is_not_covered(http, user, connection):
    trader = await make_trader(http, user)
    at = instants(connection, "AAAUSDT", True)

    told = await explain(http, user, trader, symbol="AAAUSDT", at=text(at))

    assert told["matched"] is False
    assert (
        told["reason"]
        == "not covered: the condition was true, but the trader is stopped and did not run then"
    )


async def test_a_signal_of_another_version_of_the_filter_is_called_so(http, user, connection):
    trader = await make_trader(http, user)
    cover(connection, trader)
    at = instants(connection, "AAAUSDT", False)
    add_stored_signal(connection, trader, "AAAUSDT", at, plan_hash="another")

    told = await explain(http, user, trader, symbol="AAAUSDT", at=text(at))

    assert told["matched"] is False
    assert told["reason"].endswith("the signal stored for this bar is of another version of the filter")


async def test_by_default_the_newest_due_slot_is_explained(http, user):
    trader = await make_trader(http, user, RISING.replace("1m", "15m"))

    told = await explain(http, user, trader, symbol="AAAUSDT")

    assert told["at"] == text(LAST)


async def test_a_plan_edited_by_hand_is_explained_as_it_is_screened(http, user, connection):
    """Its terms are those of the source, which it no longer is: none are told."""
    trader = await make_trader(http, user)
    connection.execute(
        """update public.traders set plan = jsonb_set(plan, '{nodes,2,op}', '"le"') where id = %s and plan -> 'nodes' -> 2 ->> 'op' = 'lt'""",
        (trader,),
    )

    told = await explain(
        http, user, trader, symbol="AAAUSDT", at=text(instants(connection, "AAAUSDT", False))
    )

    assert told["terms"] == []
    assert told["reason"] == "condition false: the signal"


async def test_a_plan_that_is_none_is_said_to_be(http, user, connection):
    trader = await make_trader(http, user)
    connection.execute("update public.traders set plan = '{}' where id = %s", (trader,))

    told = await explain(http, user, trader, symbol="AAAUSDT")

    assert told["matched"] is False
    assert told["reason"].startswith("plan refused: ")


async def test_an_unknown_symbol_is_not_found(http, user, kind):
    trader = await make_trader(http, user)

    response = await http.get(f"/api/v1/traders/{trader}/explain?symbol=NOPE", headers=user.headers)

    assert (response.status_code, kind(response)) == (404, "not-found")


@pytest.mark.parametrize(
    "query",
    ["", "?symbol=AAAUSDT&at=yesterday", "?symbol=AAAUSDT&at=2099-01-01T00:00:00Z", "?symbol=AAAUSDT&more=1"],
)
async def test_a_wrong_question_is_refused(http, user, kind, query):
    trader = await make_trader(http, user)

    response = await http.get(f"/api/v1/traders/{trader}/explain{query}", headers=user.headers)

    assert (response.status_code, kind(response)) == (422, "request-invalid")


async def test_only_the_owner_is_told(http, user, make_user, kind):
    trader = await make_trader(http, user)

    other = await http.get(f"/api/v1/traders/{trader}/explain?symbol=AAAUSDT", headers=make_user().headers)
    none = await http.get(f"/api/v1/traders/{uuid.uuid4()}/explain?symbol=AAAUSDT", headers=user.headers)

    assert (other.status_code, kind(other)) == (403, "forbidden")
    assert (none.status_code, kind(none)) == (404, "not-found")


async def test_explain_and_preview_agree_on_every_bar(http, user, machine, connection):
    """Two timeframes, all symbols, half an hour: a bar is explained as matched exactly if the preview has it."""
    source = 'm, c = bars("1m"), bars("5m")\nsignal(m.close > ta.sma(m.close, 7) and c.close > c.open)\n'
    trader = await make_trader(http, user, source)
    cover(connection, trader)
    hits = {(h["symbol"], h["triggered_at"]) for h in (await run(http, user, source, bars=15)).json()["hits"]}

    matched = set()
    for minute in range(15):
        at = text(LAST - timedelta(minutes=minute))
        for symbol in ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT"):
            told = await explain(http, user, trader, symbol=symbol, at=at)
            assert told["matched"] is (told["reason"] is None)
            if told["matched"]:
                matched.add((symbol, at))
    assert matched == hits
    assert 0 < len(hits) < 60


async def test_of_a_bar_in_progress_explain_matches_only_where_the_preview_signals(
    http, user, machine, connection
):
    """Every minute of an hour: matched at the preview's hits, "already signalled" in the rest of their bars where it holds."""
    source = (
        'm, f = bars("15m"), bars("15m", forming=True)\n'
        "show(close=f.close)\nsignal(f.close > m.high[1] and f.high > f.open)\n"
    )
    trader = await make_trader(http, user, source)
    cover(connection, trader)
    body = (await run(http, user, source, bars=60)).json()
    hits = {(h["symbol"], h["triggered_at"]) for h in body["hits"]}
    assert (body["trigger"], body["due_every"], body["bars"]) == ("15m", "1m", 60)
    plan_hash = connection.execute("select plan_hash from public.traders").fetchone()[0]
    for symbol, at in hits:
        add_stored_signal(connection, trader, symbol, at, plan_hash)

    matched, repeated = set(), 0
    for minute in range(60):
        at = text(LAST - timedelta(minutes=minute))
        for symbol in ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT"):
            told = await explain(http, user, trader, symbol=symbol, at=at)
            if told["matched"]:
                matched.add((symbol, at))
            repeated += (told["reason"] or "").startswith("already signalled: at 2024-")
            if minute % 15:
                assert told["forming"]["15m"]["open_time"] > told["bars"]["15m"]["open_time"]
                assert told["forming"]["15m"]["close"] == told["values"]["close"]
            else:
                assert told["forming"] == {}
    assert matched == hits
    assert len(hits) > 3
    assert repeated > 3


def test_openapi_has_both():
    document = openapi_document()

    run_it = document["paths"]["/api/v1/execute-filter"]["post"]
    explain_it = document["paths"]["/api/v1/traders/{trader_id}/explain"]["get"]
    assert {"200", "422", "429", "504"} <= set(run_it["responses"])
    asked = {p["name"] for p in explain_it["parameters"] if p["in"] != "header"}
    assert asked == {"trader_id", "symbol", "at"}
    assert set(document["components"]["schemas"]["Preview"]["required"]) == {
        "trigger",
        "due_every",
        "bars",
        "symbols",
        "hits",
        "hit_count",
        "truncated",
        "evaluated_ms",
        "bars_left",
        "history_begins",
    }
    assert set(document["components"]["schemas"]["Explain"]["required"]) == {
        "trader_id",
        "symbol",
        "at",
        "matched",
        "reason",
        "terms",
        "values",
        "bars",
        "forming",
        "revision",
    }
