"""API keys: who they let in, what for, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.http.api_key_auth import make_key
from app.http.application import ENDPOINTS


@pytest.fixture
def make(http):
    async def make(user, *scopes, **more):
        response = await http.post(
            "/api/v1/keys", json={"name": "bot", "scopes": list(scopes), **more}, headers=user.headers
        )
        assert response.status_code == 201, response.text
        return response.json()

    return make


def by(key):
    return {"authorization": f"Bearer {key['key'] if isinstance(key, dict) else key}"}


async def test_a_key_is_its_users(http, user, make_user, make_trader, make):
    trader = make_trader(user)
    make_trader(make_user())
    key = await make(user, "read")

    me = (await http.get("/api/v1/me", headers=by(key))).json()
    listed = (await http.get("/api/v1/traders", headers=by(key))).json()["items"]

    assert me["user_id"] == str(user.id)
    assert [t["id"] for t in listed] == [str(trader)]


@pytest.mark.parametrize(
    ("scopes", "read", "start", "list_keys"),
    [
        (["read"], 200, 403, 403),
        (["trade"], 200, 202, 403),
        (["admin"], 200, 202, 200),
        (["read", "admin"], 200, 202, 200),
    ],
)
async def test_a_key_does_what_its_scopes_say(
    http, user, make_trader, make, kind, scopes, read, start, list_keys
):
    trader = make_trader(user)
    key = await make(user, *scopes)

    answers = [
        await http.get("/api/v1/me", headers=by(key)),
        await http.post(f"/api/v1/traders/{trader}/start", headers=by(key)),
        await http.get("/api/v1/keys", headers=by(key)),
    ]

    assert [a.status_code for a in answers] == [read, start, list_keys]
    assert {kind(a) for a in answers if a.status_code == 403} <= {"forbidden"}


def test_every_endpoint_that_changes_something_needs_more_than_reading():
    harmless = {"/api/v1/execute-filter", "/api/v1/check"}
    weak = [e.path for e in ENDPOINTS if e.method != "GET" and e.scope == "read" and e.path not in harmless]

    assert weak == []
    assert all(e.scope == "admin" for e in ENDPOINTS if e.path.startswith("/api/v1/keys"))


async def test_the_key_itself_is_shown_once_and_not_stored(http, user, make, connection):
    key = await make(user, "read")
    [listed] = (await http.get("/api/v1/keys", headers=user.headers)).json()["items"]

    assert listed == {name: value for name, value in key.items() if name != "key"}
    assert key["key"].startswith(listed["hint"].rstrip("…"))
    assert key["key"] not in connection.execute("select k::text from vyx.api_keys k").fetchone()[0]


async def test_an_answer_with_a_key_is_not_kept(http, user, connection, kind):
    headers = user.headers | {"idempotency-key": "k"}
    body = {"name": "bot", "scopes": ["read"]}

    made = await http.post("/api/v1/keys", json=body, headers=headers)
    again = await http.post("/api/v1/keys", json=body, headers=headers)

    assert (made.status_code, again.status_code, kind(again)) == (201, 422, "request-invalid")
    assert connection.execute("select body from vyx.idempotent_answers").fetchone() == (b"",)
    assert connection.execute("select count(*) from vyx.api_keys").fetchone() == (1,)


async def test_a_revoked_key_is_refused_and_its_streams_end(replica, user, open_stream, connection):
    import aiohttp

    async with replica() as (_, url, _service), aiohttp.ClientSession(headers=user.headers) as session:
        async with session.post(f"{url}/api/v1/keys", json={"name": "b", "scopes": ["read"]}) as answer:
            key = await answer.json()

        class Bot:
            headers = by(key)

        async with open_stream(url, Bot) as stream, open_stream(url, user) as own:
            async with session.delete(f"{url}/api/v1/keys/{key['id']}") as answer:
                assert answer.status == 204
            rest = await stream.rest()
            async with session.get(f"{url}/api/v1/me", headers=by(key)) as answer:
                assert answer.status == 401
            assert not own.response.content.at_eof()

    assert [event["event"] for event in rest] == ["bye"]


async def test_only_ones_own_key_can_be_revoked(http, user, make_user, make, kind):
    key = await make(user, "read")

    response = await http.delete(f"/api/v1/keys/{key['id']}", headers=make_user().headers)

    assert (response.status_code, kind(response)) == (404, "not-found")
    assert (await http.get("/api/v1/me", headers=by(key))).status_code == 200


async def test_a_key_expires(http, user, make, connection, service):
    key = await make(user, "read", expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    assert (await http.get("/api/v1/me", headers=by(key))).status_code == 200

    connection.execute("update vyx.api_keys set expires_at = clock_timestamp() - interval '1 s'")
    service.keys.forget(user.id)

    assert (await http.get("/api/v1/me", headers=by(key))).status_code == 401


async def test_its_last_use_is_noted_to_the_minute(http, user, make, connection, service):
    key = await make(user, "read")
    await http.get("/api/v1/me", headers=by(key))
    [first] = connection.execute("select last_used_at from vyx.api_keys").fetchone()
    service.keys.forget(None)
    await http.get("/api/v1/me", headers=by(key))

    assert first is not None
    assert connection.execute("select last_used_at from vyx.api_keys").fetchone() == (first,)


@pytest.mark.parametrize("key", ["vyx_", "vyx_x", f"vyx_{'a' * 48}", "vyx_" + "a" * 100_000, "vyx_é"])
async def test_garbage_is_refused_without_asking_the_database(service, key):
    from app.http.problems import Unauthorized

    service.keys._pool = None
    with pytest.raises(Unauthorized):
        await service.keys.verify(key)


async def test_a_well_formed_key_of_nobodys_is_refused(http, kind):
    response = await http.get("/api/v1/me", headers=by(make_key()))

    assert (response.status_code, kind(response)) == (401, "unauthorized")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "b"},
        {"name": "b", "scopes": []},
        {"name": "b", "scopes": ["root"]},
        {"name": "", "scopes": ["read"]},
        {"name": "b", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(http, user, kind, body):
    response = await http.post("/api/v1/keys", json=body, headers=user.headers)

    assert (response.status_code, kind(response)) == (422, "request-invalid")


async def test_a_user_has_so_many_keys_and_no_more(http, user, connection, kind):
    connection.execute(
        """insert into vyx.api_keys (user_id, name, scopes, secret_hash, hint)
           select %s, 'k', '{read}', sha256(n::text::bytea), 'h' from generate_series(1, 50) n""",
        (user.id,),
    )
    response = await http.post("/api/v1/keys", json={"name": "b", "scopes": ["read"]}, headers=user.headers)

    assert (response.status_code, kind(response)) == (422, "request-invalid")


def test_two_keys_are_never_alike():
    assert len({make_key() for _ in range(100)}) == 100
    assert len(make_key()) == len("vyx_") + 48
