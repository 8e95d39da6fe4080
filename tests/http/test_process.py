"""
A web process as its supervisor sees it: started, ready, told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import psycopg
import pytest

from app.errors import CommandFailed, SettingInvalid
from app.http.server import listen
from app.settings import read_settings
from app.web import serve

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-for-tests-that-is-long-enough"
SCRIPT = """
import asyncio
from app.logging import configure
from app.settings import read_settings
from app.web import serve
configure("json")
asyncio.run(serve(read_settings(), ready=lambda url: print("ready", url, flush=True)))
print("ended", flush=True)
"""


@pytest.fixture
def web_process(dsn, tmp_path):
    """``async with web_process() as (process, url)``: a process of its own, killed at the end if it still runs."""

    @contextlib.asynccontextmanager
    async def start(before_ready=None, **environment):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "DATABASE_URL": dsn,
                "VYX_DATA_DIR": str(tmp_path),
                "VYX_JWT_SECRET": SECRET,
                "VYX_PORT": "0",
                "VYX_METRICS_PORT": "off",
                **environment,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(20):
                if before_ready is not None:
                    await before_ready(process)
                line = (await process.stdout.readline()).decode().split()
                assert line[:1] == ["ready"], (await process.stderr.read()).decode()
            yield process, line[1]
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return start


async def get(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.read()


async def test_sigterm_ends_streams_with_a_word_and_the_process_with_success(web_process, user, open_stream):
    async with web_process() as (process, url), open_stream(url, user) as stream:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3):
            rest = await stream.rest()
            out, _ = await process.communicate()

    assert [event["event"] for event in rest] == ["bye"]
    assert process.returncode == 0
    assert out == b"ended\n"


async def test_a_client_that_stops_reading_does_not_hold_the_exit(
    web_process, user, make_trader, add_signal, connection
):
    """Its backlog is larger than every buffer between us, so the stream hangs in the middle of a send."""
    add_signal(user, make_trader(user))
    connection.execute(
        """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, screened_at)
           select trader_id, user_id, 'X' || n, timeframe, triggered_at, price, jsonb_build_object('x', repeat('y', 20000)), 'h', 1, now()
             from public.signals, generate_series(1, 1000) n"""
    )
    async with web_process(VYX_DRAIN_S="1") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as deaf:
            deaf.sendall(
                f"GET /api/v1/stream?cursor=0 HTTP/1.1\r\nHost: x\r\nAuthorization: {user.headers['authorization']}\r\n\r\n".encode()
            )
            assert await asyncio.to_thread(deaf.recv, 10) == b"HTTP/1.1 2"
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(4):
                await process.communicate()

    assert process.returncode == 0


async def test_it_becomes_ready_when_the_database_does(dsn, web_process, admin_dsn):
    """It starts without its database, and says ready only once it is there."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f"alter database {name} with allow_connections false")

        async def allow_once_refused(process):
            while b"feed reader lost its connection" not in await process.stderr.readline():
                pass
            admin.execute(f"alter database {name} with allow_connections true")

        async with web_process(before_ready=allow_once_refused) as (_, url):
            body = await get(f"{url}/health/ready")

    assert body == b'{"status":"ready"}'


async def test_a_taken_port_stops_the_start_with_one_sentence_naming_the_variable(dsn, tmp_path):
    with contextlib.closing(listen("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        for variable in ("VYX_PORT", "VYX_METRICS_PORT"):
            environment = {"VYX_PORT": "0", "VYX_METRICS_PORT": "off", variable: port}
            settings = read_settings({}, {"DATABASE_URL": dsn, "VYX_DATA_DIR": str(tmp_path), **environment})
            with pytest.raises(SettingInvalid, match=variable):
                await serve(settings, ready=lambda _: None)


async def test_without_any_database_the_start_says_what_to_do(tmp_path):
    settings = read_settings({}, {"VYX_DATA_DIR": str(tmp_path), "VYX_METRICS_PORT": "off"})
    with pytest.raises(CommandFailed, match="DATABASE_URL"):
        await serve(settings, ready=lambda _: None)


async def test_an_answer_is_not_held_back_for_the_clients_acknowledgement(replica):
    """Headers and body are two writes: without TCP_NODELAY each answer on a kept connection took 40 ms more."""
    async with replica() as (server, url, _service):
        host, port = url.removeprefix("http://").split(":")
        _reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        await _reader.readuntil(b"\r\n\r\n")
        [connection] = server.server_state.connections
        held = connection.transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY
        )
        writer.close()
        await writer.wait_closed()

    assert held == 1


async def test_metrics_have_a_port_of_their_own(web_process):
    with contextlib.closing(listen("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with web_process(VYX_METRICS_PORT=str(port)):
        text = await get(f"http://127.0.0.1:{port}/metrics")

    assert b"vyx_feed_horizon" in text


def fail(password):
    raise ValueError("boom")


def test_logs_are_one_json_object_per_line_without_local_variables():
    import io
    import json
    import logging

    import structlog

    from app.logging import configure

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure("json", stream=stream)
        try:
            fail(password="do-not-log-me")
        except ValueError:
            structlog.get_logger("test").exception("it failed", trader_id="t1")
        logging.getLogger("third.party").warning("stdlib %s", "line")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()

    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["trader_id"], ours["level"]) == ("it failed", "t1", "error")
    assert ours["exception"][0]["exc_value"] == "boom"
    assert (theirs["event"], theirs["logger"]) == ("stdlib line", "third.party")
    assert "do-not-log-me" not in stream.getvalue()
