"""`vyx doctor` finds what a deployment would stumble over, and says what to do about it."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from psycopg.conninfo import make_conninfo

from app.doctor import configuration, database, exchange
from app.doctor.database import Planned
from app.doctor.findings import Severity
from app.settings import read_settings
from bench.service import vyx
from tests.store.test_sessions import TransactionPooler

PLANNED = Planned(web=2, workers=2, pool_max=10)
SECRET = "s" * 40


@pytest.fixture
def pooler(dsn):
    made = TransactionPooler(dsn, server_connections=12)  # it loses one with each client that leaves
    yield make_conninfo(dsn, host="127.0.0.1", port=made.port, sslmode="disable")
    made.close()


@pytest.fixture
async def answering():
    """Starts a host that answers every request the same way."""
    runners = []

    async def start(status, body=b""):
        async def answer(_):
            return web.Response(status=status, body=body)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def wrongs(findings):
    return [one.found for one in findings if one.severity is Severity.WRONG]


def settings(**variables):
    return read_settings({}, variables)


# -- the database ------------------------------------------------------------------------------------------


async def test_nothing_is_wrong_with_a_migrated_database(dsn):
    findings = await database.examine(dsn, dsn, PLANNED)
    assert wrongs(findings) == []
    assert {one.subject for one in findings} >= {"migrations", "server", "clock", "size", "connections"}


async def test_a_transaction_pooler_is_right_as_pooled_address_and_wrong_as_direct_one(dsn, pooler):
    assert wrongs(await database.examine(pooler, dsn, PLANNED)) == []
    found = await database.examine(dsn, pooler, PLANNED)
    assert any("transaction pooler" in one for one in wrongs(found))


async def test_an_address_that_does_not_connect_is_named_without_its_password(dsn):
    url = "postgresql://nobody:SECRET@127.0.0.1:1/none"
    (found,) = wrongs(await database.examine(dsn, url, PLANNED))
    assert found.startswith("VYX_DIRECT_DATABASE_URL does not connect")
    assert "SECRET" not in found


async def test_more_replicas_than_the_server_has_connections_for_are_wrong(dsn):
    (found,) = wrongs(await database.examine(dsn, dsn, Planned(web=1000, workers=2, pool_max=10)))
    assert "1000 web and 2 worker processes take up to 1012 direct and 10020 pooled" in found


async def test_a_missing_migration_is_wrong(dsn, connection):
    connection.execute("delete from supabase_migrations.schema_migrations where version = '20261128000001'")
    assert ["lacks 1 of" in one for one in wrongs(await database.examine(dsn, dsn, PLANNED))] == [True]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("default_transaction_isolation = 'serializable'", "serializable"),
        ("IntervalStyle = 'iso_8601'", "IntervalStyle"),
        ("default_transaction_read_only = on", "refuses writes"),
    ],
)
async def test_what_the_database_puts_into_our_sessions_is_seen(dsn, connection, setting, said):
    name = connection.info.dbname
    connection.execute(f"alter database {name} set {setting}")
    assert any(said in one for one in wrongs(await database.examine(dsn, dsn, PLANNED)))


def test_a_role_whose_statements_are_cancelled_early_is_wrong():
    assert wrongs(database.timeouts("us", {"us": "900ms", "anon": "3s"})) != []
    assert wrongs(database.timeouts("us", {"us": "30s", "anon": "3s"})) == []
    assert wrongs(database.timeouts("us", {"anon": "3s"})) == []


# -- settings ----------------------------------------------------------------------------------------------


def test_a_variable_that_nothing_reads_is_named_with_the_one_that_was_meant():
    found = configuration.given({"VYX_POOLMAX": "3", "VYX_JWT_SECRET": SECRET, "HOME": "/"})
    assert [one.severity for one in found] == [Severity.RIGHT, Severity.DOUBTFUL, Severity.RIGHT]
    assert "VYX_POOL_MAX" in found[1].remedy
    assert all(SECRET not in one.found for one in found)


async def test_keys_that_cannot_be_had_and_hosts_that_have_none_are_wrong(answering):
    for status, body, said in (
        (404, b"", "cannot be had"),
        (200, b"<html>", "not with signing keys"),
        (200, b'{"keys": []}', "publishes no ES256"),
    ):
        url = f"http://{await answering(status, body)}/keys"
        (found,) = wrongs(await configuration.sign_in(settings(VYX_JWKS_URL=url)))
        assert said in found


async def test_keys_of_the_auth_server_are_right(answering):
    host = await answering(200, b'{"keys": [{"kid": "a", "alg": "ES256"}]}')
    assert wrongs(await configuration.sign_in(settings(SUPABASE_URL=f"http://{host}"))) == []


async def test_nobody_who_may_sign_in_is_wrong():
    (found,) = wrongs(await configuration.sign_in(settings(DATABASE_URL="postgresql://db/x")))
    assert "VYX_JWT_SECRET" in found


def test_an_origin_with_a_path_is_none():
    found = configuration.browsers(
        settings(VYX_CORS_ORIGINS="https://app.example.com,https://x.example.com/")
    )
    assert [one.severity for one in found] == [Severity.RIGHT, Severity.WRONG]


# -- the exchange ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"), [(451, "region"), (403, "firewall"), (418, "banned"), (429, "too much")]
)
async def test_a_refusal_of_the_exchange_is_named(answering, status, said):
    host = await answering(status)
    found = await exchange.examine(
        settings(
            VYX_MARKET="binance",
            VYX_EXCHANGE_REST_URL=f"http://{host}",
            VYX_EXCHANGE_STREAM_URL=f"ws://{host}",
        )
    )
    assert [said in one.found and one.severity is Severity.WRONG for one in found] == [True, True]


# -- the command -------------------------------------------------------------------------------------------


def test_the_exit_code_is_the_severity_and_json_holds_every_finding(dsn, tmp_path):
    variables = {
        "DATABASE_URL": dsn,
        "VYX_JWT_SECRET": SECRET,
        "VYX_MARKET": "simulated",
        "VYX_DATA_DIR": str(tmp_path),
    }
    right = vyx("doctor", "--json", **variables)
    wrong = vyx("doctor", **variables | {"VYX_CORS_ORIGINS": "nonsense"})

    assert right.returncode == 0, right.stdout + right.stderr
    assert json.loads(right.stdout)["right"] is True
    assert wrong.returncode == 1
    assert "BAD  browsers: nonsense is no origin" in wrong.stdout
