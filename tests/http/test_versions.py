"""A trader's saved versions, going back to one, and its audit over HTTP, against a real database and the real compiler."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from app.coordination.hints import Hints
from app.http.application import make_application
from app.metrics import WorkerMetrics
from app.preview.job import PreviewJob
from app.preview.process import EvaluatingProcess
from app.screening.screener import Screener
from app.web import make_service
from sandbox.interpreter.functions import EachRunner
from tests import world
from tests.in_process import in_process_filters

LOW, HIGH = (f'signal(bars("1m").close > {level})\n' for level in (99, 101))
CLOSES = world.random_closes(4, 60)


@pytest.fixture(scope="module")
def filters():
    with in_process_filters() as filters:
        yield filters


@pytest.fixture
async def service(make_settings, connection, filters):
    connection.execute(
        "insert into vyx.markets (source, anchor_market_at, anchor_wall_at) values ('test', %s, now())",
        (world.at(30),),
    )
    world.put_closes(connection, CLOSES, first=-29)
    world.close_slots(connection, 0)
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
    """One machine: its screener, and its answers to previews."""
    hints, each = Hints(service.pool), EachRunner()
    job = PreviewJob(service.pool, hints, [EvaluatingProcess(wall_limit_s=60)])
    screener = Screener(service.pool, hints, WorkerMetrics(CollectorRegistry()), lambda: True, None, each)
    await screener.begin_boot(world.register(connection), world.at(0))

    async def work():
        while True:
            await job.run()
            await asyncio.sleep(0.01)

    working = asyncio.create_task(work())
    yield screener
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await hints.close()
    await job.close()
    each.close()


@pytest.fixture
async def trader(http, connection, user):
    response = await http.post("/api/v1/traders", json={"name": "t", "filter": LOW}, headers=user.headers)
    return response.json()["id"]


async def versions(http, user, trader):
    response = await http.get(f"/api/v1/traders/{trader}/versions", headers=user.headers)
    assert response.status_code == 200, response.text
    return [(v["number"], v["filter"], v["symbols"], v["frequency"]) for v in response.json()["items"]]


async def test_every_change_of_what_is_screened_is_a_version(http, user, trader):
    """
    A new name is none.
    """
    for change in (
        {"filter": HIGH},
        {"name": "another"},
        {"symbols": ["S1USDT"], "frequency": {"cooldown_s": 60}},
    ):
        response = await http.patch(f"/api/v1/traders/{trader}", json=change, headers=user.headers)
        assert response.status_code == 200

    assert await versions(http, user, trader) == [
        (3, HIGH, ["S1USDT"], {"cooldown_s": 60}),
        (2, HIGH, None, "every_bar"),
        (1, LOW, None, "every_bar"),
    ]


async def test_a_restored_version_is_the_newest(http, user, trader):
    """
    Filter, symbols and frequency are as they were then.
    """
    change = {"filter": HIGH, "symbols": ["S1USDT"], "frequency": "on_enter"}
    await http.patch(f"/api/v1/traders/{trader}", json=change, headers=user.headers)

    response = await http.post(f"/api/v1/traders/{trader}/versions/1/restore", headers=user.headers)

    assert response.status_code == 200, response.text
    restored = response.json()
    assert (restored["filter"], restored["symbols"], restored["frequency"]) == (LOW, None, "every_bar")
    assert (await versions(http, user, trader))[0] == (3, LOW, None, "every_bar")


@pytest.mark.parametrize("number", ["7", "0", "x", "9999999999999999999999"])
async def test_a_version_that_never_was_is_not_found(http, user, trader, number):
    response = await http.post(f"/api/v1/traders/{trader}/versions/{number}/restore", headers=user.headers)

    assert response.status_code == 404, response.text


async def test_an_audit_names_what_differs(http, connection, machine, user, trader):
    """
    After an edit in between, nothing differs; then a signal is deleted.
    """
    await http.post(f"/api/v1/traders/{trader}/start", headers=user.headers)
    world.claim(connection, machine.boot_id)
    world.close_slots(connection, *range(1, 6))
    await machine.screen()
    await http.patch(f"/api/v1/traders/{trader}", json={"filter": HIGH}, headers=user.headers)
    world.close_slots(connection, *range(6, 11))
    await machine.screen()

    async def audit(**query):
        response = await http.get(f"/api/v1/traders/{trader}/audit", params=query, headers=user.headers)
        assert response.status_code == 200, response.text
        return response.json()

    right = await audit()
    assert right["live"] == right["replayed"] == len(world.signals(connection)) > 0
    assert (right["differ"], right["slots_expected"], right["slots_accounted"]) == ([], 10, 10)
    assert right["through"] == "2024-07-01T00:10:00Z"
    first = world.signals(connection)[0]
    connection.execute(
        "delete from public.signals where symbol = %s and triggered_at = %s",
        (first.symbol, first.triggered_at),
    )

    wrong = await audit(**{"from": "2024-07-01T00:00:00Z", "to": "2024-07-01T00:05:00Z"})

    assert [(d["symbol"], d["only_in"]) for d in wrong["differ"]] == [(first.symbol, "replayed")]
    assert (wrong["from"], wrong["slots_expected"]) == ("2024-07-01T00:00:00Z", 5)


@pytest.mark.parametrize("path", ["versions", "audit"])
async def test_the_past_of_somebody_elses_trader_is_theirs(http, make_user, trader, path):
    other = make_user()

    response = await http.get(f"/api/v1/traders/{trader}/{path}", headers=other.headers)

    assert response.status_code == 403


async def test_an_audit_of_more_than_a_day_is_refused(http, user, trader):
    query = {"from": "2024-06-28T00:00:00Z"}

    response = await http.get(f"/api/v1/traders/{trader}/audit", params=query, headers=user.headers)

    assert response.status_code == 422
    assert "at most 24 hours" in response.json()["detail"]


async def test_health_names_the_machines_that_found_a_difference(http, connection, machine):
    assert (await http.get("/health")).json()["audit"] == {"recomputing": [], "mismatches": 0}
    connection.execute(
        "insert into vyx.incidents (kind, boot_id, message) values ('audit mismatch', %s, 'differs')",
        (machine.boot_id,),
    )

    body = (await http.get("/health")).json()

    assert (body["status"], body["audit"]) == ("degraded", {"recomputing": ["a"], "mismatches": 1})
