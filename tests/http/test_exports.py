"""Files of signals, everything of a user, and the end of a user."""

from __future__ import annotations

import csv
import io
import json

import pytest

from app.http.exports import CSV, PARQUET, wanted_format


@pytest.fixture
def many(user, make_trader, add_signal, connection):
    """2,500 signals: three pages."""
    trader = make_trader(user)
    add_signal(user, trader)
    connection.execute(
        """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, screened_at)
           select trader_id, user_id, 'X' || n, timeframe, triggered_at, price, '{"rsi": 1.5, "hot": true}', 'h', 1, now()
             from public.signals, generate_series(1, 2499) n"""
    )
    return trader


async def test_signals_come_as_csv(http, user, many, make_user, make_trader, add_signal):
    other = make_user()
    add_signal(other, make_trader(other))

    response = await http.get("/api/v1/signals?limit=1", headers=user.headers | {"accept": CSV})

    assert response.headers["content-type"].startswith(CSV)
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == 2500
    assert len({row["id"] for row in rows}) == 2500
    assert {row["trader_id"] for row in rows} == {str(many)}
    assert rows[1]["triggered_at"] == "2024-05-01T12:00:00Z"
    assert json.loads(rows[1]["values"]) == {"rsi": 1.5, "hot": True}
    assert (rows[1]["late"], rows[1]["price"]) == ("false", "1.5")


async def test_signals_come_as_parquet(http, user, many):
    import pyarrow.parquet as pq

    response = await http.get("/api/v1/signals?symbol=x7", headers=user.headers | {"accept": PARQUET})
    whole = await http.get("/api/v1/signals", headers=user.headers | {"accept": PARQUET})

    [row] = pq.read_table(io.BytesIO(response.content)).to_pylist()
    assert (row["symbol"], row["trader_id"], row["price"]) == ("X7", str(many), 1.5)
    assert row["triggered_at"].isoformat() == "2024-05-01T12:00:00+00:00"
    assert pq.read_table(io.BytesIO(whole.content)).num_rows == 2500


async def test_no_signals_are_a_file_too(http, user):
    import pyarrow.parquet as pq

    as_csv = await http.get("/api/v1/signals", headers=user.headers | {"accept": CSV})
    as_parquet = await http.get("/api/v1/signals", headers=user.headers | {"accept": PARQUET})

    assert as_csv.text.count("\n") == 1
    assert pq.read_table(io.BytesIO(as_parquet.content)).num_rows == 0


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("text/csv", CSV),
        ("text/html, text/csv;q=0.9, */*;q=0.1", CSV),
        ("application/json;q=0.5, TEXT/CSV", CSV),
        ("application/json, text/csv;q=0.5", None),
        ("text/csv;q=0", None),
        ("text/csv;q=x", None),
        ("text/plain", None),
        (PARQUET, PARQUET),
    ],
)
def test_a_file_is_given_to_who_prefers_one(accept, wanted):
    from starlette.requests import Request

    scope = {"type": "http", "headers": [(b"accept", accept.encode())]}
    assert wanted_format(Request(scope)) == wanted


async def test_everything_of_a_user_is_one_document(http, user, many, make_user, make_trader, connection):
    make_trader(make_user())
    connection.execute("select vyx.start_trader_v1(%s)", (many,))
    await http.post("/api/v1/keys", json={"name": "bot", "scopes": ["read"]}, headers=user.headers)

    document = (await http.get("/api/v1/me/export", headers=user.headers)).json()

    assert document["user_id"] == str(user.id)
    assert document["account"]["tier"] == "pro"
    assert [(t["id"], t["filter"]) for t in document["traders"]] == [(str(many), "f")]
    assert [key["name"] for key in document["keys"]] == ["bot"]
    events = [entry["event"] for entry in document["history"]]
    assert (events.count("signal"), events.count("trader")) == (2500, 1)
    ids = [entry["data"]["id"] for entry in document["history"]]
    assert ids == sorted(ids)


async def test_two_exports_at_a_time_are_enough(http, service, user, kind):
    with service.exports.counted(user.id), service.exports.counted(user.id):
        refused = await http.get("/api/v1/me/export", headers=user.headers)
    served = await http.get("/api/v1/me/export", headers=user.headers)

    assert (refused.status_code, kind(refused)) == (429, "rate-limited")
    assert served.status_code == 200


async def test_a_deleted_account_leaves_nothing(
    http, user, make_user, many, make_trader, connection, service
):
    other = make_user()
    kept = make_trader(other)
    await http.post("/api/v1/keys", json={"name": "bot", "scopes": ["read"]}, headers=user.headers)

    response = await http.delete("/api/v1/me", headers=user.headers)

    assert response.status_code == 204
    service.users.forget(user.id)
    assert (await http.get("/api/v1/me", headers=user.headers)).status_code == 401
    tables = connection.execute(
        """select c.oid::regclass::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'user_id'
            where c.relkind in ('r', 'p') and c.relnamespace in ('public'::regnamespace, 'vyx'::regnamespace)"""
    ).fetchall()
    left = [
        table
        for (table,) in tables
        if connection.execute(
            f"select exists (select from {table} where user_id = %s)", (user.id,)
        ).fetchone()[0]
    ]
    assert left == []
    assert len(tables) > 6
    assert connection.execute("select array_agg(id) from public.traders").fetchone()[0] == [kept]
