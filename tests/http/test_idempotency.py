"""A POST sent again with its Idempotency-Key is answered as it was the first time."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from app.store import idempotent_answers

NEW = {"name": "n", "filter": "f"}


def keyed(user, key="k1"):
    return user.headers | {"idempotency-key": key}


async def count(http, user):
    return len((await http.get("/api/v1/traders", headers=user.headers)).json()["items"])


async def test_the_same_request_is_carried_out_once_and_answered_alike(http, user):
    first = await http.post("/api/v1/traders", json=NEW, headers=keyed(user))
    again = await http.post("/api/v1/traders", json=NEW, headers=keyed(user))

    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await count(http, user) == 1


async def test_many_at_once_are_carried_out_once(http, user):
    answers = await asyncio.gather(
        *(http.post("/api/v1/traders", json=NEW, headers=keyed(user)) for _ in range(8))
    )

    assert {a.status_code for a in answers} == {201}
    assert len({a.content for a in answers}) == 1
    assert await count(http, user) == 1


async def test_another_request_with_the_key_is_refused(http, user, make_trader, kind):
    await http.post("/api/v1/traders", json=NEW, headers=keyed(user))

    other_body = await http.post("/api/v1/traders", json=NEW | {"name": "m"}, headers=keyed(user))
    other_path = await http.post("/api/v1/traders/stop", json={"ids": None}, headers=keyed(user))

    for refused in (other_body, other_path):
        assert (refused.status_code, kind(refused)) == (422, "request-invalid")
        assert "Idempotency-Key" in refused.json()["detail"]


async def test_keys_are_each_users_own(http, user, make_user):
    other = make_user()
    first = await http.post("/api/v1/traders", json=NEW, headers=keyed(user))
    second = await http.post("/api/v1/traders", json=NEW, headers=keyed(other))

    assert first.json()["id"] != second.json()["id"]


async def test_a_final_refusal_is_answered_alike_and_a_passing_one_is_tried_again(http, user, connection):
    broken = NEW | {"filter": "broken"}
    answers = [await http.post("/api/v1/traders", json=broken, headers=keyed(user, "a")) for _ in range(2)]
    connection.execute(
        "insert into vyx.rate_limits (user_id, kind, calls) select %s, 'save', array_agg(clock_timestamp()) from generate_series(1, 600) on conflict (user_id, kind) do update set calls = excluded.calls",
        (user.id,),
    )
    limited = await http.post("/api/v1/traders", json=NEW, headers=keyed(user, "b"))
    connection.execute("delete from vyx.rate_limits")
    tried_again = await http.post("/api/v1/traders", json=NEW, headers=keyed(user, "b"))

    assert [a.status_code for a in answers] == [422, 422]
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert answers[1].headers["content-type"] == "application/problem+json"
    assert (limited.status_code, tried_again.status_code) == (429, 201)


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "a\tb"])
async def test_a_key_that_is_none_is_refused(http, user, kind, key):
    response = await http.post("/api/v1/traders", json=NEW, headers=keyed(user, key))

    assert (response.status_code, kind(response)) == (422, "request-invalid")


async def test_a_bug_leaves_no_answer_behind(http, user):
    explodes = NEW | {"filter": "explode"}

    answers = [await http.post("/api/v1/traders", json=explodes, headers=keyed(user)) for _ in range(2)]

    assert [a.status_code for a in answers] == [500, 500]
    assert "idempotency-replayed" not in answers[1].headers


async def test_a_claim_whose_process_is_gone_is_taken_over_after_a_minute(service, user, connection):
    async with service.pool.connection() as pooled:
        first = await idempotent_answers.claim(pooled, user.id, "k", b"f")
        waiting = await idempotent_answers.claim(pooled, user.id, "k", b"f")
        connection.execute("update vyx.idempotent_answers set claimed_at = claimed_at - interval '61 s'")
        second = await idempotent_answers.claim(pooled, user.id, "k", b"f")
        await idempotent_answers.put_answer(pooled, user.id, "k", first.claim, 201, {}, b"late")
        await idempotent_answers.put_answer(pooled, user.id, "k", second.claim, 201, {}, b"mine")
        found = await idempotent_answers.claim(pooled, user.id, "k", b"f")

    assert isinstance(first.claim, uuid.UUID)
    assert (waiting.claim, waiting.status, waiting.same_request) == (None, None, True)
    assert second.claim is not None
    assert found.body == b"mine"


async def test_a_day_later_the_key_is_new(http, user, connection):
    first = await http.post("/api/v1/traders", json=NEW, headers=keyed(user))
    connection.execute("update vyx.idempotent_answers set claimed_at = claimed_at - interval '24 h'")
    second = await http.post("/api/v1/traders", json=NEW, headers=keyed(user))

    assert first.json()["id"] != second.json()["id"]


async def test_a_user_keeps_a_thousand_answers_at_most(service, user, connection):
    connection.execute(
        """insert into vyx.idempotent_answers (user_id, key, fingerprint, status, headers, body, claimed_at)
           select %s, 'old ' || n, '', 200, '{}', '', clock_timestamp() - interval '1 h' from generate_series(1, 1200) n""",
        (user.id,),
    )
    async with service.pool.connection() as pooled:
        await idempotent_answers.claim(pooled, user.id, "new", b"f")

    assert connection.execute(
        "select count(*), count(*) filter (where key = 'new') from vyx.idempotent_answers"
    ).fetchone() == (1000, 1)


async def test_old_answers_are_forgotten(service, user, connection):
    async with service.pool.connection() as pooled:
        await idempotent_answers.claim(pooled, user.id, "k", b"f")
        connection.execute("update vyx.idempotent_answers set claimed_at = claimed_at - interval '25 h'")
        assert (
            await idempotent_answers.prune(pooled, before=datetime.now(UTC) - timedelta(hours=24), limit=10)
            == 1
        )

    assert connection.execute("select count(*) from vyx.idempotent_answers").fetchone() == (0,)
