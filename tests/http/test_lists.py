"""Lists: what a page holds, in which order, and what it costs to ask again."""

from __future__ import annotations

import gzip

import httpx2
import pytest

from app.http.application import ALLOWED_HEADERS, ENDPOINTS, make_application


async def pages(http, path, headers, **params):
    """Every page of a list."""
    found, cursor = [], None
    while cursor is not None or not found:
        response = await http.get(
            path, params=params | ({"cursor": cursor} if cursor else {}), headers=headers
        )
        assert response.status_code == 200, response.text
        found.append(response.json()["items"])
        cursor = response.json()["next_cursor"]
    return found


async def test_a_list_of_traders_holds_no_filter_unless_asked_for(http, user, make_trader):
    make_trader(user)

    [plain] = (await http.get("/api/v1/traders", headers=user.headers)).json()["items"]
    [full] = (await http.get("/api/v1/traders?include=filter", headers=user.headers)).json()["items"]

    assert "filter" not in plain
    assert full == plain | {"filter": "f"}


async def test_a_page_of_traders_ends_at_about_a_mebibyte(http, user, make_trader, connection):
    ids = [str(make_trader(user)) for _ in range(40)][::-1]
    connection.execute("update public.traders set filter = repeat('f', 65536)")

    found = await pages(http, "/api/v1/traders", user.headers, limit=1000, include="filter")
    assert [t["id"] for page in found for t in page] == ids
    assert max(map(len, found)) <= 17

    found = await pages(http, "/api/v1/traders", user.headers, limit=1000)
    assert [t["id"] for page in found for t in page] == ids
    assert len(found) == 1


async def test_one_row_larger_than_a_page_is_still_given(http, user, make_trader, connection):
    ids = [str(make_trader(user)) for _ in range(3)][::-1]
    connection.execute(
        "update public.traders set symbols = (select array_agg('S' || n) from generate_series(1, 200000) n)"
    )

    found = await pages(http, "/api/v1/traders", user.headers)

    assert [[t["id"] for t in page] for page in found] == [[one] for one in ids]


@pytest.fixture
def five(user, make_trader, add_signal):
    trader = make_trader(user)
    return [
        add_signal(user, trader, symbol=symbol) for symbol in ("AUSDT", "BUSDT", "AAUSDT", "BBUSDT", "CUSDT")
    ]


async def test_signals_come_newest_last_or_first(http, user, five):
    oldest = await pages(http, "/api/v1/signals", user.headers, limit=2)
    newest = await pages(http, "/api/v1/signals", user.headers, limit=2, order="newest")

    assert [s["id"] for page in oldest for s in page] == five
    assert [s["id"] for page in newest for s in page] == five[::-1]
    assert [len(page) for page in newest] == [2, 2, 1]


async def test_signals_of_one_symbol(http, user, five):
    [[found]] = await pages(http, "/api/v1/signals", user.headers, symbol="busdt")

    assert found["id"] == five[1]


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z", 5),
        ("2024-05-01T12:00:01Z", None, 0),
        (None, "2024-05-01T11:59:59Z", 0),
        (None, "2024-05-01T13:00:00+01:00", 5),
    ],
)
async def test_signals_of_a_span_of_market_time(http, user, five, first, last, count):
    given = {name: value for name, value in (("from", first), ("until", last)) if value}

    [found] = await pages(http, "/api/v1/signals", user.headers, **given)

    assert len(found) == count


async def test_a_page_of_signals_ends_at_about_a_mebibyte(http, user, five, connection):
    connection.execute(
        "update public.signals set shown = jsonb_build_object('x', (select string_agg(md5(n::text), '') from generate_series(1, 20000) n))"
    )

    found = await pages(http, "/api/v1/signals", user.headers, limit=1000)

    assert [s["id"] for page in found for s in page] == five
    assert len(found) > 1


async def test_a_list_that_has_not_changed_is_not_sent_again(http, user, make_trader):
    make_trader(user)
    first = await http.get("/api/v1/traders", headers=user.headers)
    etag = first.headers["etag"]

    again = await http.get("/api/v1/traders", headers=user.headers | {"if-none-match": f'"other", {etag}'})
    make_trader(user)
    changed = await http.get("/api/v1/traders", headers=user.headers | {"if-none-match": etag})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag
    assert changed.status_code == 200


async def test_long_answers_are_compressed_and_streams_are_not(replica, user, five, open_stream):
    import aiohttp

    async with (
        replica() as (_, url, _service),
        aiohttp.ClientSession(headers=user.headers, auto_decompress=False) as session,
    ):
        async with session.get(f"{url}/openapi.json", headers={"accept-encoding": "gzip"}) as answer:
            body = await answer.read()
        async with session.get(f"{url}/api/v1/stream", headers={"accept-encoding": "gzip"}) as stream:
            assert "content-encoding" not in stream.headers

    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body).startswith(b'{"openapi"')


async def test_a_browser_may_send_what_its_libraries_send(service, make_settings):
    service.settings = make_settings(VYX_CORS_ORIGINS="https://app.test")
    transport = httpx2.ASGITransport(make_application(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test") as client:
        answer = await client.options(
            "/api/v1/stream",
            headers={
                "origin": "https://app.test",
                "access-control-request-method": "GET",
                "access-control-request-headers": ", ".join(map(str.lower, ALLOWED_HEADERS)),
            },
        )

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.test"


@pytest.mark.parametrize(
    "path", [e.path for e in ENDPOINTS if e.method == "GET" and "{" not in e.path and e.path != "/metrics"]
)
async def test_an_unknown_query_parameter_is_refused_everywhere(http, user, kind, path):
    response = await http.get(path, params={"nonsense": "1"}, headers=user.headers)

    assert response.status_code == 422
    assert kind(response) == "request-invalid"


@pytest.mark.parametrize(
    "since",
    ["1", "1.5", "-1", "2024-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday"],
)
async def test_what_is_no_instant_of_utc_is_refused(http, user, kind, since):
    response = await http.get("/api/v1/signals", params={"since": since}, headers=user.headers)

    assert response.status_code == 422
    assert kind(response) == "request-invalid"


@pytest.mark.parametrize(
    "since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2024-01-01T00:00:00+14:00"]
)
async def test_an_instant_far_away_is_an_instant(http, user, since):
    assert (
        await http.get("/api/v1/signals", params={"since": since}, headers=user.headers)
    ).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"a","name":"b","filter":"f"}',
        '{"name":"a","filter":"f","frequency":{"cooldown_s":1,"cooldown_s":2}}',
    ],
)
async def test_a_member_given_twice_is_refused(http, user, kind, body):
    response = await http.post("/api/v1/traders", content=body, headers=user.headers)

    assert response.status_code == 422
    assert "twice" in response.json()["detail"]


@pytest.mark.parametrize("name", ["\u200b", "\u2060\ufeff", " \u00ad ", "\u202e", "\x07", "\u3164", "\u2800"])
async def test_a_name_that_nobody_can_see_is_refused(http, user, kind, name):
    response = await http.post("/api/v1/traders", json={"name": name, "filter": "f"}, headers=user.headers)

    assert response.status_code == 422
    assert kind(response) == "request-invalid"


@pytest.mark.parametrize("name", ["Ω", "突破", "a\u200db", "👩\u200d🚀", "·"])
async def test_a_name_in_any_script_is_taken(http, user, name):
    response = await http.post("/api/v1/traders", json={"name": name, "filter": "f"}, headers=user.headers)

    assert response.status_code == 201
    assert response.json()["name"] == name


async def test_the_shelf_of_a_tier_is_full_at_some_point(http, user, connection, kind):
    connection.execute("update public.tiers set max_stored = 2 where tier = 'pro'")
    body = {"name": "n", "filter": "f"}

    answers = [await http.post("/api/v1/traders", json=body, headers=user.headers) for _ in range(3)]

    assert [a.status_code for a in answers] == [201, 201, 403]
    assert kind(answers[2]) == "quota-exceeded"
    problem = answers[2].json()
    assert (problem["quota"], problem["limit"], problem["used"], problem["tier"]) == (
        "stored_traders",
        2,
        2,
        "pro",
    )
