from __future__ import annotations

import asyncio
import json
import re
import uuid

import httpx2
import msgspec
import pytest
import structlog
from psycopg.conninfo import make_conninfo

from app.errors import STATUS, Kind, Refused
from app.http import problems, shapes
from app.http.application import ENDPOINTS, make_application, openapi_document
from app.http.endpoints import BODY_BYTES_MAX
from app.http.limits import CallLimit
from app.http.openapi_examples import EXAMPLES


async def test_an_unknown_address_is_a_problem(http, kind):
    response = await http.get("/nowhere")

    assert response.status_code == 404
    assert kind(response) == "not-found"


NOBODYS = uuid.UUID(int=7)  # fixed: every worker of a run in parallel must collect the same tests


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/v1/traders", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/api/v1/me", "DELETE, GET, HEAD, OPTIONS"),
        ("GET", f"/api/v1/traders/{NOBODYS}/start", "OPTIONS, POST"),
        ("PUT", f"/api/v1/traders/{NOBODYS}", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("BREW", "/health/live", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_method_that_is_not_possible_names_those_that_are(http, kind, method, path, allow):
    response = await http.request(method, path)

    assert response.status_code == 405
    assert kind(response) == "request-invalid"
    assert response.headers["allow"] == allow


async def test_options_names_the_methods(http):
    response = await http.options("/api/v1/traders")

    assert response.status_code == 204
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_a_declared_length_beyond_the_limit_is_refused_before_it_is_read(http, user, kind):
    response = await http.post("/api/v1/traders", content=b"x" * (BODY_BYTES_MAX + 1), headers=user.headers)

    assert response.status_code == 413
    assert kind(response) == "payload-too-large"
    assert response.headers["connection"] == "close"


async def test_a_chunked_body_beyond_the_limit_is_refused(http, user, kind):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(64):
            sent += 64 * 1024
            yield b"x" * 64 * 1024

    response = await http.post("/api/v1/traders", content=chunks(), headers=user.headers)

    assert response.status_code == 413
    assert kind(response) == "payload-too-large"


async def test_a_body_within_the_limit_is_read(http, user):
    response = await http.post("/api/v1/traders", content=b" " * BODY_BYTES_MAX, headers=user.headers)

    assert response.status_code == 400


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_refusal_is_a_problem_of_its_type_and_status(kind):
    response = problems.respond(
        problems.Unauthorized("a sentence") if kind is Kind.UNAUTHORIZED else Refused(kind, "a sentence")
    )

    body = json.loads(response.body)
    assert response.media_type == "application/problem+json"
    assert body["type"] == f"https://vyx.dev/problems/{kind}"
    assert body["status"] == response.status_code == STATUS[kind]
    assert body["detail"] == "a sentence"
    assert ("retry-after" in response.headers) == (
        kind in (Kind.RATE_LIMITED, Kind.BUSY, Kind.SERVICE_FULL, Kind.UNAVAILABLE)
    )
    assert ("www-authenticate" in response.headers) == (kind is Kind.UNAUTHORIZED)


@pytest.mark.parametrize(("seconds", "said"), [(0, 1), (0.2, 1), (1, 1), (1.01, 2), (59.5, 60)])
def test_retry_after_is_whole_seconds_rounded_up_and_at_least_one(seconds, said):
    response = problems.respond(Refused(Kind.RATE_LIMITED, "wait", retry_after_s=seconds))

    assert response.headers["retry-after"] == str(said)
    assert json.loads(response.body)["retry_after_s"] == said


async def test_cors_headers_are_on_answers_errors_and_bugs_alike(service, user, monkeypatch, make_settings):
    service.settings = make_settings(VYX_CORS_ORIGINS="https://app.test")
    transport = httpx2.ASGITransport(make_application(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test") as http:
        origin = {"origin": "https://app.test"}
        answers = [
            await http.get("/api/v1/me", headers=user.headers | origin),
            await http.get("/api/v1/me", headers=origin),
            await http.get("/nowhere", headers=origin),
            await http.post(
                "/api/v1/traders", json={"name": "n", "filter": "explode"}, headers=user.headers | origin
            ),
        ]
        preflight = await http.options(
            "/api/v1/traders",
            headers=origin
            | {
                "access-control-request-method": "PATCH",
                "access-control-request-headers": "authorization,prefer",
            },
        )
        foreign = await http.get("/api/v1/me", headers={"origin": "https://evil.test"})

    assert [a.status_code for a in answers] == [200, 401, 404, 500]
    assert {a.headers["access-control-allow-origin"] for a in answers} == {"https://app.test"}
    assert "Retry-After" in answers[0].headers["access-control-expose-headers"]
    assert preflight.status_code == 200
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in foreign.headers


async def test_without_configured_origins_there_are_no_cors_headers(http, user):
    response = await http.get("/api/v1/me", headers=user.headers | {"origin": "https://app.test"})

    assert "access-control-allow-origin" not in response.headers


async def test_every_answer_has_a_request_id_and_security_headers(http):
    for path in ("/", "/api/v1/me", "/nowhere", "/health/live"):
        response = await http.get(path)
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("a\tb", False)]
)
async def test_a_plain_request_id_is_kept_and_another_replaced(http, given, kept):
    response = await http.get("/health/live", headers={"x-request-id": given})

    assert (response.headers["x-request-id"] == given) == kept


async def test_a_request_is_one_log_line_without_its_token(http, user):
    token = user.headers["authorization"].split()[1]
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        response = await http.get(f"/api/v1/signals?cursor={token[:150]}", headers=user.headers)

    requests = [line for line in lines if line["event"] == "request"]
    assert response.status_code == 422
    assert len(requests) == 1
    assert requests[0] | {"ms": 0} == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "route": "/api/v1/signals",
        "path": "/api/v1/signals",
        "status": 422,
        "ms": 0,
        "user_id": str(user.id),
        "request_id": response.headers["x-request-id"],
    }
    assert token[:20] not in str(lines)


async def test_reads_are_limited_per_user(http, service, user, make_user, kind):
    service.reads = CallLimit(3, "reads a minute")

    answers = [await http.get("/api/v1/me", headers=user.headers) for _ in range(4)]
    other = await http.get("/api/v1/me", headers=make_user().headers)

    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert kind(answers[3]) == "rate-limited"
    assert int(answers[3].headers["retry-after"]) == answers[3].json()["retry_after_s"]
    assert other.status_code == 200


def test_the_read_window_slides():
    now = 0.0
    limit, user = CallLimit(2, "reads a minute", clock=lambda: now), uuid.uuid4()
    limit.count(user)
    now = 30.0
    limit.count(user)
    now = 59.0
    with pytest.raises(Refused) as refusal:
        limit.count(user)
    assert refusal.value.members["retry_after_s"] == 1.0
    now = 60.0
    limit.count(user)
    with pytest.raises(Refused):
        limit.count(user)


async def test_metrics_are_public_only_when_asked_for(http, service, make_settings):
    assert (await http.get("/metrics")).status_code == 404

    service.settings = make_settings(VYX_PUBLIC_METRICS="true")
    transport = httpx2.ASGITransport(make_application(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test") as opened:
        assert "vyx_feed_horizon" in (await opened.get("/metrics")).text


async def test_metrics_hold_no_user(http, service, user, make_trader):
    trader = make_trader(user)
    await http.get(f"/api/v1/traders/{trader}", headers=user.headers)
    await http.get("/nowhere")

    text = bytes(service.metrics.render().body).decode()

    assert (
        'vyx_http_requests_total{method="GET",route="/api/v1/traders/{trader_id}",status="200"} 1.0' in text
    )
    assert 'vyx_http_problems_total{kind="not-found"} 1.0' in text
    assert "vyx_quota_rejections_total 0.0" in text
    assert "vyx_rate_limited_total 0.0" in text
    assert "vyx_feed_streams 0.0" in text
    assert str(trader) not in text
    assert str(user.id) not in text


class TestHealth:
    async def test_a_fresh_service_is_live_and_ready(self, http):
        assert (await http.get("/health/live")).json() == {"status": "live"}
        assert (await http.get("/health/ready")).json() == {"status": "ready"}

    async def test_a_draining_replica_is_not_ready(self, http, service, kind):
        service.drain()
        response = await http.get("/health/ready")
        assert response.status_code == 503
        assert kind(response) == "unavailable"

    async def test_a_replica_without_a_horizon_is_not_ready(self, http, service, kind):
        service.feed.horizon = None
        assert kind(await http.get("/health/ready")) == "unavailable"

    async def test_without_its_database_it_is_live_but_not_ready(self, http, service, kind):
        await service.pool.close()
        assert (await http.get("/health/live")).status_code == 200
        assert kind(await http.get("/health/ready")) == "unavailable"
        health = await http.get("/health")
        assert health.status_code == 503
        assert health.json()["database"] == "unreachable"

    async def test_a_replica_whose_feed_makes_no_progress_is_not_ready(self, http, service, kind):
        """Its streams would be open and get nothing."""
        service.feed.polled_at -= 6

        assert kind(await http.get("/health/ready")) == "unavailable"
        body = (await http.get("/health")).json()
        assert body["status"] == "degraded"
        assert any("feed of this replica" in reason for reason in body["reasons"])

    async def test_a_service_that_lags_or_stands_still_says_so(self, http, connection, run_machine):
        """Machines that are alive are not enough: what they get done decides."""
        connection.execute("insert into vyx.markets (source, anchor_market_at) values ('simulated', now())")
        connection.execute(
            "insert into vyx.slots (slot, state, closed_at) values (date_trunc('minute', now()) - interval '20 min', 'complete', now())"
        )
        run_machine()
        connection.execute(
            "insert into vyx.slots (slot, state, closed_at) values (date_trunc('minute', now()) - interval '10 min', 'complete', now())"
        )
        connection.execute(
            """update vyx.machine_heartbeats set progress = '{"screen": {"count": 1, "idle_s": 31, "bound_s": 30}, "jobs": {"count": 1, "idle_s": 99, "bound_s": null}}'"""
        )

        body = (await http.get("/health")).json()

        assert body["status"] == "degraded"
        assert [reason.split(": ")[-1] for reason in body["reasons"]] == [
            "screening is 600 s of market time behind",
            f"no slot has closed since {body['newest_slot'][:16].replace('T', ' ')} UTC",
            "screen has made no progress for 31 s",
        ]

    async def test_a_server_without_a_free_connection_says_so(self, http, service, connection, admin_dsn):
        """It is there: what is wrong is another matter than an outage."""
        await service.pool.close()
        connection.execute("create role crowded login connection limit 0")
        crowded = make_conninfo(admin_dsn, user="crowded", dbname=connection.info.dbname)
        object.__setattr__(service.settings, "database_url", crowded)

        body = (await http.get("/health")).json()

        connection.execute("drop role crowded")
        assert body["database"] == "unreachable"
        assert any("too many connections" in reason for reason in body["reasons"])

    async def test_health_sums_up_the_service(self, http, connection, run_machine):
        connection.execute("insert into vyx.markets (source, anchor_market_at) values ('simulated', now())")
        connection.execute(
            "insert into vyx.slots (slot, state, closed_at) values (date_trunc('minute', now(), 'UTC'), 'complete', now())"
        )
        run_machine()

        body = (await http.get("/health")).json()

        assert (body["status"], body["reasons"]) == ("ok", [])
        assert body["database"] == "ok"
        assert body["machines_alive"] == 1
        assert body["newest_slot"].endswith(":00Z")
        assert (body["lag_s"], body["reason"]) == (0, None)
        assert body["market"]["source"] == "simulated"
        assert body["market"]["ended"] is False
        assert body["feed"]["streams"] == 0

    async def test_health_says_what_the_market_waits_for(self, http, connection, run_machine):
        run_machine()
        connection.execute(
            "insert into vyx.market_progress (stage, reason) values ('history', 'history is loading, 1,240 of 4,800')"
        )

        starting = (await http.get("/health")).json()
        connection.execute("insert into vyx.markets (source, anchor_market_at) values ('binance', now())")
        connection.execute(
            "insert into vyx.slots (slot, state, closed_at) values ('2024-05-01T12:00Z', 'complete', now())"
        )
        silent = (await http.get("/health")).json()

        assert (starting["status"], starting["reason"]) == ("starting", "history is loading, 1,240 of 4,800")
        assert silent["status"] == "degraded"
        assert "no slot has closed since 2024-05-01 12:00 UTC" in silent["reason"]


async def test_a_database_that_cannot_be_reached_is_unavailable_not_a_bug(http, service, user, kind):
    await http.get("/api/v1/me", headers=user.headers)
    await service.pool.close()

    response = await http.get("/api/v1/me", headers=user.headers)

    assert response.status_code == 503
    assert kind(response) == "unavailable"
    assert response.headers["retry-after"] == "1"


async def test_a_statement_that_takes_too_long_is_a_timeout(http, user, make_trader, connection, kind):
    trader = make_trader(user)
    blocked = next(e for e in ENDPOINTS if e.path.endswith("}/start"))
    object.__setattr__(blocked, "time_limit_s", 0.2)
    try:
        with connection.transaction():
            connection.execute("select from public.trader_state where trader_id = %s for update", (trader,))
            response = await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)
    finally:
        object.__setattr__(blocked, "time_limit_s", 15.0)

    assert response.status_code == 504
    assert kind(response) == "timeout"


class TestMarket:
    @pytest.fixture(autouse=True)
    def market(self, connection):
        connection.execute(
            "insert into vyx.symbols (symbol, base, quote, trading, halted_at, reason) values ('ETHUSDT', 'ETH', 'USDT', true, null, null), ('BTCUSDT', 'BTC', 'USDT', false, now(), 'BREAK')"
        )
        connection.execute(
            """insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume)
               select symbol_id, '1m', timestamptz '2024-05-01T00:00Z' + n * interval '1 min', 1, 3, 0.5, 2, n
                 from vyx.symbols, generate_series(0, 9) n where symbol = 'BTCUSDT'"""
        )

    async def test_symbols_are_listed_by_name(self, http, user):
        body = (await http.get("/api/v1/market/symbols", headers=user.headers)).json()
        assert body["next_cursor"] is None
        halted, trading = body["items"]
        assert halted.pop("halted_at") >= halted.pop("listed_at")[:10]
        assert halted == {
            "symbol": "BTCUSDT",
            "base": "BTC",
            "quote": "USDT",
            "trading": False,
            "screened": False,
            "reason": "BREAK",
        }
        assert (trading["symbol"], trading["trading"], trading["halted_at"]) == ("ETHUSDT", True, None)

    async def test_the_newest_candles_come_oldest_first(self, http, user):
        body = (
            await http.get("/api/v1/market/candles?symbol=btcusdt&timeframe=1m&limit=2", headers=user.headers)
        ).json()
        assert body["items"] == [
            {"open_time": "2024-05-01T00:08:00Z", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 8},
            {"open_time": "2024-05-01T00:09:00Z", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 9},
        ]

    @pytest.mark.parametrize("until", ["2024-05-01T00:02:00Z", "2024-05-01T02:02:00+02:00"])
    async def test_until_ends_them(self, http, user, until):
        body = (
            await http.get(
                f"/api/v1/market/candles?symbol=BTCUSDT&timeframe=1m&until={until}", headers=user.headers
            )
        ).json()
        assert [c["volume"] for c in body["items"]] == [0, 1]

    async def test_a_pair_without_candles_has_none(self, http, user):
        response = await http.get("/api/v1/market/candles?symbol=ETHUSDT&timeframe=1h", headers=user.headers)
        assert response.json()["items"] == []

    async def test_an_unknown_pair_is_not_found(self, http, user, kind):
        response = await http.get("/api/v1/market/candles?symbol=NOPE&timeframe=1m", headers=user.headers)
        assert kind(response) == "not-found"

    @pytest.mark.parametrize("query", ["symbol=BTCUSDT", "timeframe=1m", "symbol=BTCUSDT&timeframe=7m"])
    async def test_pair_and_timeframe_are_needed(self, http, user, query, kind):
        response = await http.get(f"/api/v1/market/candles?{query}", headers=user.headers)
        assert response.status_code == 422
        assert kind(response) == "request-invalid"


class TestSignals:
    async def test_every_signal_is_listed_once_newest_last(
        self, http, user, make_trader, add_signal, make_user
    ):
        stranger = make_user()
        add_signal(stranger, make_trader(stranger))
        trader = make_trader(user)
        ids = [add_signal(user, trader) for _ in range(7)]

        seen, cursor = [], None
        while cursor is not None or not seen:
            params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            page = (await http.get("/api/v1/signals", params=params, headers=user.headers)).json()
            seen += [s["id"] for s in page["items"]]
            cursor = page["next_cursor"]

        assert seen == ids

    async def test_a_signal_has_the_contracts_members(self, http, user, make_trader, add_signal):
        trader = make_trader(user)
        new = add_signal(user, trader, symbol="BTCUSDT")

        (signal,) = (await http.get("/api/v1/signals", headers=user.headers)).json()["items"]

        assert signal["created_at"].endswith("Z")
        assert signal["screened_at"].endswith("Z")
        assert {k: v for k, v in signal.items() if k not in ("created_at", "screened_at")} == {
            "id": new,
            "trader_id": str(trader),
            "symbol": "BTCUSDT",
            "timeframe": "1m",
            "triggered_at": "2024-05-01T12:00:00Z",
            "price": 1.5,
            "values": {"rsi": 20.5},
            "late": False,
            "forming": False,
        }

    async def test_since_compares_with_created_at_and_includes_it(
        self, http, user, make_trader, add_signal, connection
    ):
        trader = make_trader(user)
        ids = [add_signal(user, trader) for _ in range(4)]
        for number, signal in enumerate(ids):
            connection.execute(
                "update public.signals set created_at = timestamptz '2024-06-01T00:00Z' + %s * interval '1 s' where id = %s",
                (number, signal),
            )

        for since in ("2024-06-01T00:00:02Z", "2024-06-01T02:00:02+02:00"):
            page = (await http.get(f"/api/v1/signals?since={since}", headers=user.headers)).json()
            assert [s["id"] for s in page["items"]] == ids[2:]

    async def test_they_can_be_one_traders(self, http, user, make_trader, add_signal, make_user):
        one, two = make_trader(user), make_trader(user)
        add_signal(user, one)
        wanted = add_signal(user, two)
        stranger = make_user()
        theirs = make_trader(stranger)
        add_signal(stranger, theirs)

        mine = (await http.get(f"/api/v1/signals?trader_id={two}", headers=user.headers)).json()
        foreign = (await http.get(f"/api/v1/signals?trader_id={theirs}", headers=user.headers)).json()

        assert [s["id"] for s in mine["items"]] == [wanted]
        assert foreign["items"] == []

    @pytest.mark.parametrize(
        "query", ["since=yesterday", "since=2024-06-01T00:00:00", "trader_id=1", "cursor=abc"]
    )
    async def test_what_means_nothing_is_refused(self, http, user, query, kind):
        response = await http.get(f"/api/v1/signals?{query}", headers=user.headers)
        assert response.status_code == 422
        assert kind(response) == "request-invalid"


class TestOpenAPI:
    async def test_it_lists_every_endpoint_with_its_answers(self, http):
        document = (await http.get("/openapi.json")).json()

        assert document["openapi"] == "3.1.0"
        assert {(m.upper(), p) for p, of_path in document["paths"].items() for m in of_path} == {
            (e.method, e.path) for e in ENDPOINTS
        }
        start = document["paths"]["/api/v1/traders/{trader_id}/start"]["post"]
        assert {"202", "401", "403", "404", "409", "429"} <= start["responses"].keys()
        assert start["security"] == [{"bearer": []}]
        assert "security" not in document["paths"]["/health/live"]["get"]

    async def test_every_reference_leads_somewhere(self, http):
        text = (await http.get("/openapi.json")).text
        schemas = json.loads(text)["components"]["schemas"]
        references = set(re.findall(r'"#/components/schemas/(\w+)"', text))
        assert references <= schemas.keys()
        assert {"Trader", "Status", "Signal", "TraderEvent", "Coverage", "Me", "Problem"} <= schemas.keys()

    def test_examples_are_of_their_types(self):
        for name, example in EXAMPLES.items():
            msgspec.convert(example, getattr(shapes, name))

    def test_a_generator_learns_what_it_needs(self):
        document = openapi_document()
        schemas = document["components"]["schemas"]
        start = document["paths"]["/api/v1/traders/{trader_id}/start"]["post"]
        stream = document["paths"]["/api/v1/stream"]["get"]
        signals = document["paths"]["/api/v1/signals"]["get"]

        values = schemas["Signal"]["properties"]["values"]["additionalProperties"]
        assert sorted(one["type"] for one in values["anyOf"]) == ["boolean", "null", "number"]
        assert set(schemas["NewTrader"]["required"]) == {"name", "filter"}
        assert all("default" not in member for member in schemas["NewTrader"]["properties"].values())
        assert "required" not in schemas["TraderChange"] or schemas["TraderChange"]["required"] == []
        assert {"items", "next_cursor"} == set(schemas["SignalList"]["required"])
        assert "filter" not in schemas["TraderSummary"]["required"]
        assert "filter" in schemas["Trader"]["required"]
        assert set(schemas["Problem"]["properties"]["type"]["enum"]) == {
            "about:blank",
            *(f"https://vyx.dev/problems/{kind}" for kind in Kind),
        }
        assert {p["name"] for p in start["parameters"] if p["in"] == "header"} == {
            "Prefer",
            "Idempotency-Key",
        }
        assert "Last-Event-ID" in {p["name"] for p in stream["parameters"]}
        assert [one["properties"]["event"]["const"] for one in schemas["StreamEvent"]["oneOf"]] == [
            "signal",
            "trader",
            "delivery",
            "reset",
            "bye",
        ]
        assert "text/csv" in signals["responses"]["200"]["content"]

    def test_every_operation_has_a_tag_that_is_described(self):
        document = openapi_document()
        used = {t for of_path in document["paths"].values() for o in of_path.values() for t in o["tags"]}

        assert used == {tag["name"] for tag in document["tags"]}

    def test_every_post_of_a_user_takes_an_idempotency_key(self):
        for path, of_path in openapi_document()["paths"].items():
            if "post" in of_path:
                names = {p["name"] for p in of_path["post"]["parameters"]}
                assert "Idempotency-Key" in names, path

    async def test_operation_ids_are_unique(self, http):
        document = (await http.get("/openapi.json")).json()
        ids = [o["operationId"] for of_path in document["paths"].values() for o in of_path.values()]
        assert len(ids) == len(set(ids))


async def test_the_front_page_leads_to_the_api(http):
    response = await http.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in response.text


async def test_requests_of_one_client_do_not_mix_their_ids(http):
    answers = await asyncio.gather(
        *(http.get("/health/live", headers={"x-request-id": f"r{n}"}) for n in range(20))
    )
    assert [a.headers["x-request-id"] for a in answers] == [f"r{n}" for n in range(20)]
