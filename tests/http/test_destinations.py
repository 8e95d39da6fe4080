"""
Destinations and deliveries over HTTP: what goes in, what never comes out, and whose is whose.
"""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest

KEY = "a-key-of-a-test-that-is-long-enough-to-be-one"
HOOK = {"name": "bot", "kind": "webhook", "url": "https://hooks.example.com/secret-path"}


@pytest.fixture
async def http(make_settings):
    """A web process that holds a key and may reach the loopback."""
    import httpx2

    from app.http.application import make_application
    from app.web import make_service
    from tests.http.conftest import FakeFilters

    settings = make_settings(VYX_SECRET_KEY=KEY, VYX_PUBLIC_URL="https://vyx.test")
    async with make_service(settings, FakeFilters()) as service:
        await service.feed.has_horizon.wait()
        transport = httpx2.ASGITransport(make_application(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test") as client:
            client.service = service
            yield client


async def create(http, user, **given):
    return await http.post("/api/v1/destinations", headers=user.headers, json=HOOK | given)


async def test_the_secret_of_a_webhook_is_said_once_and_its_address_never(http, user, connection):
    made = await create(http, user)
    found = await http.get(f"/api/v1/destinations/{made.json()['id']}", headers=user.headers)
    listed = await http.get("/api/v1/destinations", headers=user.headers)

    assert made.status_code == 201
    assert made.headers["location"] == f"/api/v1/destinations/{made.json()['id']}"
    secret = made.json()["secret"]
    assert secret.startswith("whsec_")
    for answer in (found, listed):
        assert answer.status_code == 200
        assert secret not in answer.text
        assert "secret-path" not in answer.text
    assert found.json()["hint"] == "hooks.example.com/…"
    assert found.json()["figures"]["sent"] == 0
    sealed = connection.execute("select sealed from vyx.destination_secrets").fetchone()[0]
    assert b"secret-path" not in bytes(sealed)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": "http://127.0.0.1/x"}, "not an address of the public internet"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "not an address of the public internet"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "not an address of the public internet"),
        ({"url": "https://localhost/x"}, "localhost"),
        ({"url": "https://hooks.example.com:22/"}, "port 22"),
        ({"url": "ftp://hooks.example.com/"}, "https://"),
        ({"url": "https://user:pw@hooks.example.com/"}, "user name"),
        ({"url": None}, "needs a url"),
        ({"headers": {"Host": "x"}}, "Host is set by Vyx"),
        ({"headers": {"webhook-id": "x"}}, "webhook-id is set by Vyx"),
        ({"headers": {f"x-{n}": "1" for n in range(21)}}, "at most 20"),
        ({"headers": {"x": "a\nb"}}, "printable"),
        ({"template": "{{nope}}"}, "nope"),
        ({"template": "{% if price %}x{% endif %}"}, "unexpected tag"),
        ({"template": '{"a": {{symbol}} }'}, "does not write JSON"),
        ({"kind": "telegram", "url": None}, "bot_token is missing"),
        ({"kind": "apprise", "url": "json://127.0.0.1/"}, "json:// cannot be used"),
        ({"preset": "3commas"}, "secret is missing"),
        ({"preset": "cornix"}, "for a telegram destination"),
        ({"settings": {"what": "x"}}, "what is not one of"),
        ({"quiet_hours": {"from": "22:00", "until": "07:00", "zone": "Mars/Phobos"}}, "time zone"),
        ({"trader_ids": ["00000000-0000-4000-8000-000000000000"]}, "not one of your traders"),
    ],
)
async def test_what_cannot_work_is_refused_with_the_reason(http, user, kind, connection, given, sentence):
    body = {k: v for k, v in (HOOK | given).items() if v is not None}
    refused = await http.post("/api/v1/destinations", headers=user.headers, json=body)

    assert refused.status_code == 422, refused.text
    assert kind(refused) == "request-invalid"
    assert sentence in refused.json()["detail"]
    assert connection.execute("select count(*) from public.destinations").fetchone()[0] == 0


async def test_a_preset_fills_the_body_a_bot_expects(http, user):
    made = await create(http, user, preset="3commas", settings={"secret": "s3cr3t", "bot_uuid": "b"})

    assert made.status_code == 201
    assert "s3cr3t" not in made.text


async def test_someone_elses_destination_is_forbidden_and_an_unknown_one_not_found(
    http, user, make_user, kind
):
    made = (await create(http, user)).json()
    other = make_user()
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test")):
        body = {"json": {}} if method == "PATCH" else {}
        refused = await http.request(
            method, f"/api/v1/destinations/{made['id']}{path}", headers=other.headers, **body
        )
        assert kind(refused) == "forbidden", method
    unknown = await http.get(f"/api/v1/destinations/{uuid.uuid4()}", headers=user.headers)

    assert kind(unknown) == "not-found"


async def test_a_change_keeps_what_it_leaves_out_and_says_a_new_secret_once(http, user):
    made = (await create(http, user, events=["signal", "error"])).json()
    changed = await http.patch(
        f"/api/v1/destinations/{made['id']}",
        headers=user.headers,
        json={"name": "renamed", "digest": {"every_s": 900}, "rotate_secret": True, "enabled": False},
    )

    body = changed.json()
    assert changed.status_code == 200, changed.text
    assert body["events"] == ["signal", "error"]
    assert body["name"] == "renamed"
    assert body["digest"] == {"every_s": 900}
    assert body["secret"].startswith("whsec_")
    assert body["secret"] != made["secret"]
    assert (body["enabled"], body["disabled_reason"]) == (False, "disabled by hand")


async def test_without_a_key_nothing_is_stored_and_the_answer_says_why(make_settings, user, kind):
    import httpx2

    from app.http.application import make_application
    from app.web import make_service
    from tests.http.conftest import FakeFilters

    async with make_service(make_settings(), FakeFilters()) as service:
        await service.feed.has_horizon.wait()
        transport = httpx2.ASGITransport(make_application(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test") as client:
            refused = await create(client, user)

    assert kind(refused) == "unavailable"
    assert "VYX_SECRET_KEY" in refused.json()["detail"]


@pytest.fixture
def queue(connection):
    """A delivery as the outbox holds it."""

    def put(user, destination, source_id, state="failed", **columns):
        given = {"status": 500, "answer": "no", "answered": state == "sent", **columns}
        connection.execute(
            """insert into vyx.deliveries (source_id, destination_id, user_id, state, expires_at, status, answer, answered_at, changed_at)
               values (%(id)s, %(destination)s, %(user)s, %(state)s, now() + interval '1 min', %(status)s, %(answer)s, now(), clock_timestamp())""",
            {"id": source_id, "destination": destination, "user": user.id, "state": state, **given},
        )

    return put


async def test_receipts_are_listed_by_signal_destination_and_state(http, user, make_user, queue):
    made = (await create(http, user)).json()
    other = make_user()
    theirs = (await create(http, other)).json()
    for source_id, state in ((1, "sent"), (2, "failed"), (3, "expired"), (-4, "sent")):
        queue(user, made["id"], source_id, state)
    queue(other, theirs["id"], 5)

    async def ids(**query):
        answer = await http.get("/api/v1/deliveries", headers=user.headers, params=query)
        assert answer.status_code == 200, answer.text
        return [d["message_id"].split("_")[1] for d in answer.json()["items"]]

    assert set(await ids()) == {"1", "2", "3", "n4"}
    assert await ids(signal_id=2) == ["2"]
    assert await ids(state="expired") == ["3"]
    assert await ids(destination_id=theirs["id"]) == []
    page = (await http.get("/api/v1/deliveries", headers=user.headers, params={"limit": 3})).json()
    rest = await http.get(
        "/api/v1/deliveries", headers=user.headers, params={"limit": 3, "cursor": page["next_cursor"]}
    )
    assert len(page["items"]) + len(rest.json()["items"]) == 4
    assert uuid.UUID(page["items"][0]["id"])


async def test_redrive_brings_back_what_failed_and_expired_ones_only_when_asked(
    http, user, queue, kind, connection
):
    made = (await create(http, user)).json()
    for source_id, state in ((1, "sent"), (2, "failed"), (3, "expired")):
        queue(user, made["id"], source_id, state)

    async def redrive(**body):
        return await http.post("/api/v1/deliveries/redrive", headers=user.headers, json=body)

    assert kind(await redrive()) == "request-invalid"
    assert (await redrive(destination_id=made["id"])).json() == {"count": 1}
    assert (await redrive(destination_id=made["id"], states=["expired"])).json() == {"count": 1}
    states = connection.execute("select source_id, state from vyx.deliveries order by 1").fetchall()
    assert states == [(1, "sent"), (2, "pending"), (3, "pending")]


async def test_nobody_redrives_what_is_someone_elses(http, user, make_user, queue):
    made = (await create(http, user)).json()
    queue(user, made["id"], 2, "failed")
    other = make_user()

    answer = await http.post(
        "/api/v1/deliveries/redrive", headers=other.headers, json={"destination_id": made["id"]}
    )

    assert answer.json() == {"count": 0}


async def test_a_receipt_is_told_on_the_owners_stream_alone(
    replica, make_settings, user, make_user, open_stream, queue, http
):
    made = (await create(http, user)).json()
    other = make_user()
    async with (
        replica() as (_, url, _),
        open_stream(url, user) as mine,
        open_stream(url, other) as theirs,
    ):
        await asyncio.sleep(0)
        queue(user, made["id"], 7, "sent")
        event = await mine.next()
        theirs_next = asyncio.create_task(theirs.next())
        queue(other, (await create(http, other)).json()["id"], 8, "sent")

        assert event["event"] == "delivery"
        assert "id" not in event
        assert json.loads(event["data"])["signal_id"] == 7
        assert json.loads((await theirs_next)["data"])["signal_id"] == 8


def test_a_signed_in_user_reads_no_secret_past_the_api(connection, user):
    """Row security, and no grant at all on what is sealed."""
    import psycopg

    for statement in (
        "select from vyx.destination_secrets",
        "select from vyx.deliveries",
        "insert into public.destinations (user_id, name, kind, hint) select user_id, 'x', 'webhook', '' from public.accounts",
        "select public.redrive_deliveries(null)",
    ):
        with connection.transaction(force_rollback=True):
            connection.execute("set local role authenticated")
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)", (json.dumps({"sub": str(user.id)}),)
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
