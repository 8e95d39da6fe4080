from __future__ import annotations

import asyncio
import json
import uuid

import pytest

from app.store.rate_limits import SAVE
from tests import world

NEW = {"name": "Breakdown", "filter": "signal(True)"}


async def create(http, user, **fields):
    response = await http.post("/api/v1/traders", json=NEW | fields, headers=user.headers)
    assert response.status_code == 201, response.text
    return response.json()


async def test_a_saved_trader_is_returned_stopped_with_its_plan(http, user):
    response = await http.post("/api/v1/traders", json=NEW, headers=user.headers)

    body = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/api/v1/traders/{body['id']}"
    assert body["state"] == "stopped"
    assert body["health"] == "ok"
    assert body["frequency"] == "every_bar"
    assert body["symbols"] is None
    assert body["plan"] == {
        "trigger": "1m",
        "timeframes": ["1m"],
        "forming": [],
        "due_every": "1m",
        "operators": ["bars", "lt"],
        "lookback_bars": 2,
        "cost": 7,
        "calls_each": False,
    }
    assert body["created_at"].endswith("Z")
    assert body["warnings"] == []


async def test_the_plan_is_stored_as_the_compiler_wrote_it(http, user, connection):
    trader = await create(http, user)

    plan, summary = connection.execute(
        "select plan, plan_summary ->> 'trigger' from public.traders where id = %s", (trader["id"],)
    ).fetchone()
    assert plan == {"source": NEW["filter"]}
    assert summary == "1m"


async def test_warnings_come_with_the_saved_trader(http, user):
    trader = await create(http, user, filter="odd")

    assert [w["message"] for w in trader["warnings"]] == ["it is odd"]


async def test_a_filter_that_does_not_compile_is_refused_with_diagnostics(http, user, kind, connection):
    response = await http.post("/api/v1/traders", json=NEW | {"filter": "broken"}, headers=user.headers)

    assert response.status_code == 422
    assert kind(response) == "filter-invalid"
    assert response.json()["diagnostics"] == [
        {
            "line": 1,
            "column": 1,
            "end_line": 1,
            "end_column": 2,
            "severity": "error",
            "code": "test",
            "message": "it is broken",
            "hint": "",
        }
    ]
    assert connection.execute("select count(*) from public.traders").fetchone() == (0,)


@pytest.mark.parametrize(
    "body",
    [
        NEW | {"colour": "red"},
        NEW | {"symbols": []},
        NEW | {"symbols": ["BTC USDT"]},
        NEW | {"frequency": "hourly"},
        NEW | {"frequency": {"cooldown_s": 0}},
        NEW | {"frequency": {"cooldown_s": 1.5}},
        NEW | {"frequency": {"cooldown_s": 30 * 86400 + 1}},
        NEW | {"frequency": {"cooldown_s": 60, "x": 1}},
        NEW | {"name": ""},
        NEW | {"name": "  "},
        NEW | {"name": "a\x00b"},
        NEW | {"name": "x" * 121},
        NEW | {"filter": ""},
        NEW | {"filter": "é" * 40_000},
        {"name": "no filter"},
        [],
        "text",
    ],
)
async def test_a_body_of_another_shape_is_refused(http, user, kind, body):
    response = await http.post("/api/v1/traders", json=body, headers=user.headers)

    assert response.status_code == 422
    assert kind(response) == "request-invalid"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"\\ud800"', b"[" * 100_000, b"{'a': 1}"])
async def test_what_is_no_json_is_a_bad_request(http, user, kind, body):
    response = await http.post("/api/v1/traders", content=body, headers=user.headers)

    assert response.status_code == 400
    assert kind(response) == "request-invalid"


async def test_an_integral_float_stands_for_the_integer(http, user):
    response = await http.post(
        "/api/v1/traders",
        content=b'{"name": "n", "filter": "f", "frequency": {"cooldown_s": 60.0}}',
        headers=user.headers,
    )

    assert response.status_code == 201
    assert response.json()["frequency"] == {"cooldown_s": 60}


async def test_symbols_are_upper_case_sorted_and_unique(http, user):
    trader = await create(http, user, symbols=["ethusdt", "BTCUSDT", "EthUsdt"])

    assert trader["symbols"] == ["BTCUSDT", "ETHUSDT"]


async def test_a_symbol_the_market_does_not_have_is_named(http, user, connection, kind):
    connection.execute("insert into vyx.symbols (symbol, base, quote) values ('BTCUSDT', 'BTC', 'USDT')")

    response = await http.post(
        "/api/v1/traders", json=NEW | {"symbols": ["BTCUSDT", "NOPEUSDT"]}, headers=user.headers
    )

    assert response.status_code == 422
    assert kind(response) == "request-invalid"
    assert response.json()["symbols"] == ["NOPEUSDT"]


async def test_the_list_pages_through_every_trader_once_newest_first(http, user, make_trader):
    ids = [str(make_trader(user)) for _ in range(7)]

    seen, cursor = [], None
    while True:
        response = await http.get(
            "/api/v1/traders",
            params={"limit": 3} | ({"cursor": cursor} if cursor else {}),
            headers=user.headers,
        )
        page = response.json()
        seen += [t["id"] for t in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == ids[::-1]


async def test_traders_created_at_the_same_instant_are_all_listed(http, user, make_trader, connection):
    ids = {str(make_trader(user)) for _ in range(5)}
    connection.execute("update public.traders set created_at = '2024-01-01Z'")

    seen, cursor = [], None
    while cursor is not None or not seen:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await http.get("/api/v1/traders", params=params, headers=user.headers)).json()
        seen += [t["id"] for t in page["items"]]
        cursor = page["next_cursor"]

    assert len(seen) == len(ids)
    assert set(seen) == ids


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x",
        "cursor=%00",
        "limit=0",
        "limit=1001",
        "limit=1&limit=1",
        "limit=a",
        "colour=red",
        "cursor=MSB4",
        "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5IDE",
    ],
)
async def test_a_query_that_means_nothing_is_refused(http, user, kind, query):
    response = await http.get(f"/api/v1/traders?{query}", headers=user.headers)

    assert response.status_code == 422
    assert kind(response) == "request-invalid"


async def test_a_change_leaves_alone_what_it_does_not_name(http, user):
    trader = await create(http, user, symbols=["BTCUSDT"], description="d", frequency="on_enter")

    response = await http.patch(
        f"/api/v1/traders/{trader['id']}", json={"name": "other"}, headers=user.headers
    )

    body = response.json()
    assert response.status_code == 200
    assert body["name"] == "other"
    assert {k: body[k] for k in ("description", "symbols", "frequency", "filter", "revision")} == {
        k: trader[k] for k in ("description", "symbols", "frequency", "filter", "revision")
    }


async def test_symbols_set_to_null_mean_every_pair_again(http, user):
    trader = await create(http, user, symbols=["BTCUSDT"])

    response = await http.patch(
        f"/api/v1/traders/{trader['id']}", json={"symbols": None}, headers=user.headers
    )

    assert response.json()["symbols"] is None


async def test_a_changed_filter_is_compiled_and_raises_the_revision(http, user):
    trader = await create(http, user)

    changed = await http.patch(
        f"/api/v1/traders/{trader['id']}", json={"filter": "odd"}, headers=user.headers
    )
    refused = await http.patch(
        f"/api/v1/traders/{trader['id']}", json={"filter": "broken"}, headers=user.headers
    )
    now = await http.get(f"/api/v1/traders/{trader['id']}", headers=user.headers)

    assert changed.json()["revision"] == trader["revision"] + 1
    assert changed.json()["warnings"][0]["message"] == "it is odd"
    assert refused.status_code == 422
    assert now.json()["filter"] == "odd"


async def test_an_empty_change_changes_nothing(http, user):
    trader = await create(http, user)

    response = await http.patch(f"/api/v1/traders/{trader['id']}", json={}, headers=user.headers)

    assert response.status_code == 200
    assert response.json()["updated_at"] == trader["updated_at"]


@pytest.mark.parametrize("state", ["stopped", "starting", "running", "stopping", "error"])
async def test_a_trader_is_deleted_in_any_state(http, user, make_trader, connection, run_machine, state):
    trader = make_trader(user)
    to_reach = {
        "stopped": [],
        "starting": ["starting"],
        "running": ["starting", "running"],
        "stopping": ["starting", "running", "stopping"],
        "error": ["starting", "error"],
    }[state]
    boot = run_machine()
    for step in to_reach:
        connection.execute(
            "update public.trader_state set state = %s, owner = case when %s in ('running', 'stopping') then %s::bigint end where trader_id = %s",
            (step, step, boot, trader),
        )

    first = await http.delete(f"/api/v1/traders/{trader}", headers=user.headers)
    second = await http.delete(f"/api/v1/traders/{trader}", headers=user.headers)

    assert first.status_code == 204
    assert first.content == b""
    assert second.status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/start"),
        ("POST", "/stop"),
        ("GET", "/status"),
        ("GET", "/coverage"),
    ],
)
class TestOwnership:
    async def test_someone_elses_trader_is_forbidden(
        self, http, user, make_user, make_trader, connection, kind, method, path
    ):
        trader = make_trader(make_user())

        response = await http.request(
            method, f"/api/v1/traders/{trader}{path}", json={"name": "mine"}, headers=user.headers
        )

        assert response.status_code == 403
        assert kind(response) == "forbidden"
        assert connection.execute("select name from public.traders").fetchone() == ("t",)

    async def test_a_trader_that_does_not_exist_is_not_found(self, http, user, kind, method, path):
        response = await http.request(
            method, f"/api/v1/traders/{uuid.uuid4()}{path}", json={"name": "n"}, headers=user.headers
        )

        assert response.status_code == 404
        assert kind(response) == "not-found"

    async def test_what_is_no_uuid_is_not_found(self, http, user, kind, method, path):
        response = await http.request(
            method, f"/api/v1/traders/42{path}", json={"name": "n"}, headers=user.headers
        )

        assert response.status_code == 404
        assert kind(response) == "not-found"


async def test_starting_and_stopping_twice_is_harmless(http, user, make_trader):
    trader = make_trader(user)

    answers = [
        await http.post(f"/api/v1/traders/{trader}/{what}", headers=user.headers)
        for what in ("start", "start", "stop", "stop")
    ]

    assert [a.status_code for a in answers] == [202] * 4
    assert [a.json()["state"] for a in answers] == ["starting", "starting", "stopped", "stopped"]
    assert [a.json()["version"] for a in answers] == [1, 1, 3, 3]
    assert answers[0].json()["health"] == "waiting"


async def test_a_stopping_trader_cannot_be_started(http, user, make_trader, connection, run_machine, kind):
    trader = make_trader(user)
    boot = run_machine()
    connection.execute("select public.start_trader(%s)", (trader,))
    connection.execute("update public.trader_state set owner = %s", (boot,))
    connection.execute("select public.stop_trader(%s)", (trader,))

    response = await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)

    assert response.status_code == 409
    assert kind(response) == "transition-not-allowed"
    assert response.json()["state"] == "stopping"


async def test_the_free_tier_runs_nothing(http, make_user, make_trader, kind):
    user = make_user("free")
    trader = make_trader(user)

    response = await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)

    body = response.json()
    assert response.status_code == 403
    assert kind(response) == "quota-exceeded"
    assert (body["limit"], body["used"], body["tier"]) == (0, 0, "free")


async def test_a_full_service_refuses_whatever_the_tier(make_settings, make_user, make_trader, service, http):
    user = make_user("elite")
    traders = [make_trader(user) for _ in range(3)]
    service.lifecycle._active_traders_max = 2

    answers = [await http.post(f"/api/v1/traders/{t}/start", headers=user.headers) for t in traders]

    assert [a.status_code for a in answers] == [202, 202, 503]
    assert answers[2].json()["type"].endswith("/service-full")
    assert answers[2].headers["retry-after"] == "60"


async def test_of_simultaneous_starts_exactly_the_quota_succeeds(
    http, user, make_trader, connection, service, kind, monkeypatch
):
    """Ten may run: of 25 simultaneous starts of 25 traders, ten do, with the rate limit out of the way."""
    monkeypatch.setattr("app.lifecycle.LIFECYCLE", service_limit(100))
    traders = [make_trader(user) for _ in range(25)]

    answers = await asyncio.gather(
        *(http.post(f"/api/v1/traders/{t}/start", headers=user.headers) for t in traders)
    )

    refused = [a for a in answers if a.status_code != 202]
    assert len(answers) - len(refused) == 10
    assert {kind(a) for a in refused} == {"quota-exceeded"}
    assert connection.execute(
        "select count(*) from public.trader_state where state = 'starting'"
    ).fetchone() == (10,)


def service_limit(max_calls):
    from datetime import timedelta

    from app.store.rate_limits import Limit

    return Limit("lifecycle", max_calls, timedelta(seconds=60))


async def test_of_32_simultaneous_lifecycle_calls_exactly_ten_are_allowed(http, make_user, make_trader, kind):
    user = make_user("elite")
    traders = [make_trader(user) for _ in range(32)]

    answers = await asyncio.gather(
        *(http.post(f"/api/v1/traders/{trader}/start", headers=user.headers) for trader in traders)
    )

    refused = [a for a in answers if a.status_code != 202]
    assert len(refused) == 22
    assert {kind(a) for a in refused} == {"rate-limited"}
    for answer in refused:
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after_s"]
        assert 1 <= answer.json()["retry_after_s"] <= 60


async def test_neither_a_stop_nor_a_harmless_repetition_counts(http, user, make_trader):
    trader = make_trader(user)
    left = []
    for action in ("start", "start", "start", "stop", "stop"):
        assert (
            await http.post(f"/api/v1/traders/{trader}/{action}", headers=user.headers)
        ).status_code == 202
        left.append((await http.get("/api/v1/me", headers=user.headers)).json()["rate"]["remaining"])

    assert left == [9] * 5


async def test_a_start_while_it_stops_says_when_to_try_again(
    http, user, make_trader, connection, run_machine, kind
):
    trader = make_trader(user)
    stopping(connection, trader, run_machine())

    refused = await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)

    assert (refused.status_code, kind(refused)) == (409, "transition-not-allowed")
    assert refused.json()["state"] == "stopping"
    assert refused.headers["retry-after"] == "1"


async def test_a_start_that_prefers_to_wait_waits_for_the_stop(
    http, user, make_trader, connection, run_machine
):
    trader = make_trader(user)
    boot = run_machine()
    stopping(connection, trader, boot)

    waiting = asyncio.create_task(
        http.post(f"/api/v1/traders/{trader}/start", headers=user.headers | {"prefer": "wait=1"})
    )
    await asyncio.sleep(0)
    connection.execute("select vyx.release_v1(%s, null)", (boot,))
    connection.execute("notify vyx_feed")
    response = await waiting

    assert response.status_code == 202
    assert response.json()["state"] == "starting"


def stopping(connection, trader, boot):
    connection.execute("select vyx.start_trader_v1(%s)", (trader,))
    connection.execute("update public.trader_state set owner = %s, state = 'running'", (boot,))
    connection.execute("select vyx.stop_trader_v1(%s)", (trader,))


async def test_several_traders_start_in_one_call_each_with_its_outcome(http, user, make_user, make_trader):
    traders = [str(make_trader(user)) for _ in range(12)]
    foreign, nobodys = str(make_trader(make_user())), str(uuid.uuid4())

    response = await http.post(
        "/api/v1/traders/start", json={"ids": [*traders, foreign, nobodys]}, headers=user.headers
    )

    assert response.status_code == 202
    outcomes = {o["trader_id"]: o for o in response.json()["items"]}
    assert list(outcomes) == [*traders, foreign, nobodys]
    kinds = [(o["problem"] or {"type": "/"})["type"].rsplit("/", 1)[1] for o in outcomes.values()]
    assert sorted(kinds) == [""] * 10 + ["not-found"] * 2 + ["quota-exceeded"] * 2
    assert [o["status"]["state"] for o in outcomes.values() if o["status"]].count("starting") == 10
    assert outcomes[foreign]["status"] is None
    me = (await http.get("/api/v1/me", headers=user.headers)).json()
    assert (me["running"], me["rate"]["remaining"]) == (10, 9)


async def test_all_of_them_start_and_stop(http, user, make_trader):
    traders = {str(make_trader(user)) for _ in range(3)}

    started = await http.post("/api/v1/traders/start", json={"ids": None}, headers=user.headers)
    again = await http.post("/api/v1/traders/start", json={"ids": None}, headers=user.headers)
    stopped = await http.post("/api/v1/traders/stop", json={"ids": None}, headers=user.headers)

    assert {o["trader_id"] for o in started.json()["items"]} == traders
    assert again.json() == {"items": []}
    assert {o["status"]["state"] for o in stopped.json()["items"]} == {"stopped"}


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": ["x"]}, {"ids": None, "more": 1}])
async def test_which_traders_is_said_plainly(http, user, kind, body):
    response = await http.post("/api/v1/traders/stop", json=body, headers=user.headers)

    assert (response.status_code, kind(response)) == (422, "request-invalid")


async def test_tiers_are_told(http, user):
    items = (await http.get("/api/v1/tiers", headers=user.headers)).json()["items"]

    assert [(t["tier"], t["max_running"]) for t in items] == [("free", 0), ("pro", 10), ("elite", None)]


async def test_a_rate_limited_start_says_quota_when_retrying_would_not_help(http, user, make_trader, kind):
    running = [make_trader(user) for _ in range(10)]
    eleventh = make_trader(user)
    for trader in running:
        assert (await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)).status_code == 202

    refused = await http.post(f"/api/v1/traders/{eleventh}/start", headers=user.headers)
    repeated = await http.post(f"/api/v1/traders/{running[0]}/start", headers=user.headers)

    assert kind(refused) == "quota-exceeded"
    assert (refused.json()["limit"], refused.json()["used"], refused.json()["tier"]) == (10, 10, "pro")
    assert refused.json()["next_tier"] == "elite"
    assert repeated.status_code == 202


async def test_saves_are_limited_by_themselves(http, user, make_trader, connection, kind):
    trader = make_trader(user)
    connection.execute(
        "insert into vyx.rate_limits (user_id, kind, calls) select %s, 'save', array_agg(clock_timestamp()) from generate_series(1, %s)",
        (user.id, SAVE.max_calls),
    )

    save = await http.post("/api/v1/traders", json=NEW, headers=user.headers)
    start = await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)

    assert save.status_code == 429
    assert kind(save) == "rate-limited"
    assert start.status_code == 202


async def test_prefer_wait_answers_when_a_machine_has_it_running(
    http, user, make_trader, connection, run_machine, eventually
):
    trader = make_trader(user)
    boot = run_machine()

    waiting = asyncio.create_task(
        http.post(
            f"/api/v1/traders/{trader}/start", headers=user.headers | {"prefer": "respond-async, wait=10"}
        )
    )
    claim = (
        "update public.trader_state set owner = %s, state = 'running' where state = 'starting' returning 1"
    )
    await eventually(lambda: connection.execute(claim, (boot,)).fetchone())
    connection.execute("notify vyx_feed")
    response = await waiting

    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=10"
    assert response.json()["state"] == "running"
    assert response.json()["machine_id"] == "m1"
    assert response.json()["started_at"].endswith("Z")


async def test_prefer_wait_gives_up_after_the_time_it_names(http, user, make_trader):
    trader = make_trader(user)

    response = await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers | {"prefer": "wait=0"})

    assert response.json()["state"] == "starting"
    assert response.headers["preference-applied"] == "wait=0"


async def test_a_longer_wait_is_cut_to_ten_seconds_and_says_so(http, user, make_trader):
    response = await http.post(
        f"/api/v1/traders/{make_trader(user)}/stop", headers=user.headers | {"prefer": "wait=3600"}
    )

    assert response.headers["preference-applied"] == "wait=10"


async def test_active_lists_exactly_the_starting_and_running(http, user, make_user, make_trader, connection):
    stranger = make_user()
    active = sorted(str(make_trader(user)) for _ in range(3))
    for trader in active:
        connection.execute("select public.start_trader(%s)", (trader,))
    make_trader(user)
    connection.execute("select public.start_trader(%s)", (make_trader(stranger),))

    first = (await http.get("/api/v1/traders/active?limit=2", headers=user.headers)).json()
    second = (
        await http.get(f"/api/v1/traders/active?cursor={first['next_cursor']}", headers=user.headers)
    ).json()

    assert [s["trader_id"] for s in first["items"] + second["items"]] == active
    assert second["next_cursor"] is None
    assert {s["state"] for s in first["items"]} == {"starting"}


async def test_a_trader_that_floods_shows_in_the_status_and_its_limit_in_me(
    http, user, make_trader, connection
):
    trader = make_trader(user)
    connection.execute(
        "insert into vyx.markets (source, anchor_market_at, anchor_wall_at) values ('test', now(), now()) on conflict do nothing"
    )
    connection.execute("update public.tiers set signals_per_day = 7 where tier = 'pro'")
    with world.without_triggers(connection):
        connection.execute(
            "update public.trader_state set signal_day = vyx.market_day(vyx.market_time()), signals_that_day = 7,"
            " flooding_since = vyx.market_time() where trader_id = %s",
            (trader,),
        )

    status = (await http.get(f"/api/v1/traders/{trader}/status", headers=user.headers)).json()
    me = (await http.get("/api/v1/me", headers=user.headers)).json()

    assert (status["signals_today"], status["signals_per_day"], me["signals_per_day"]) == (7, 7, 7)
    assert status["flooding_since"] is not None


async def test_an_error_shows_in_the_status(http, user, make_trader, connection):
    trader = make_trader(user)
    connection.execute("select public.start_trader(%s)", (trader,))
    connection.execute(
        "select vyx.change_state_v1(%s, 'error', 'cannot load', null, 'node 3: no such operator')", (trader,)
    )

    status = (await http.get(f"/api/v1/traders/{trader}/status", headers=user.headers)).json()

    assert status["state"] == "error"
    assert status["health"] == "failing"
    assert status["reason"] == status["last_error"] == "node 3: no such operator"
    assert status["error_count"] == 1
    assert status["retry_at"].endswith("Z")
    assert status["lag_s"] == 0


async def test_me_tells_tier_quota_and_rate(http, user, make_trader):
    await http.post(f"/api/v1/traders/{make_trader(user)}/start", headers=user.headers)

    me = (await http.get("/api/v1/me", headers=user.headers)).json()

    assert me["user_id"] == str(user.id)
    assert (me["tier"], me["running"], me["max_running"]) == ("pro", 1, 10)
    assert (me["rate"]["limit"], me["rate"]["remaining"]) == (10, 9)
    assert 0 < me["rate"]["reset_s"] <= 60


async def test_an_unlimited_tier_has_no_max(http, make_user):
    me = (await http.get("/api/v1/me", headers=make_user("elite").headers)).json()

    assert me["max_running"] is None


async def test_a_user_without_an_account_row_is_on_the_free_tier(http, user, connection):
    connection.execute("delete from public.accounts")

    me = (await http.get("/api/v1/me", headers=user.headers)).json()

    assert (me["tier"], me["max_running"]) == ("free", 0)


async def test_a_change_of_state_is_hinted_after_its_commit(http, user, make_trader, connection):
    connection.execute("listen vyx_trader")
    trader = make_trader(user)

    await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)

    hint = await asyncio.to_thread(lambda: next(connection.notifies(timeout=5)))
    assert (hint.channel, hint.payload) == ("vyx_trader", "")
    assert connection.execute("select state from public.trader_state").fetchone() == ("starting",)


async def test_a_bug_in_the_compiler_is_an_internal_error_that_tells_nothing(http, user, caplog):
    response = await http.post("/api/v1/traders", json=NEW | {"filter": "explode"}, headers=user.headers)

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert json.loads(response.text)["request_id"] == response.headers["x-request-id"]


async def test_before_the_ledger_begins_nothing_is_said_to_be_screened(http, user, make_trader, connection):
    """A trader that was started before the first slot is neither screened through 1970 nor fifty years behind."""
    trader = make_trader(user)
    connection.execute("select public.start_trader(%s)", (trader,))
    first = (await http.get(f"/api/v1/traders/{trader}/status", headers=user.headers)).json()
    connection.execute(
        "insert into vyx.slots (slot, state, closed_at) values ('2024-05-01T12:00Z', 'complete', now()), ('2024-05-01T12:01Z', 'complete', now())"
    )

    then = (await http.get(f"/api/v1/traders/{trader}/status", headers=user.headers)).json()

    assert (first["screened_through"], first["lag_s"]) == (None, 0)
    assert (then["screened_through"], then["lag_s"]) == ("2024-05-01T11:59:00Z", 120)


async def test_a_trader_edited_in_studio_is_still_told(http, user, make_trader, connection):
    """The table allows what the API does not offer."""
    trader = make_trader(user)
    connection.execute(
        "update public.traders set frequency = '{\"cooldown_s\": 0.5, \"note\": 1}', plan_summary = '{}'"
    )

    response = await http.get(f"/api/v1/traders/{trader}", headers=user.headers)

    assert response.status_code == 200
    assert response.json()["frequency"] == {"cooldown_s": 1}
