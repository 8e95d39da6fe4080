"""
``vyx up``: database, migrations, demo, then a web and a worker process side by side, restarted with backoff
when they die.

The children share nothing but Postgres; this process only watches. SIGTERM and Ctrl-C are passed on once, the
drain is bounded, and the embedded database stops last.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

import structlog

from app import dev_data
from app.backoff import Backoff
from app.child_process import ending_with_us
from app.delivery.terminal_receiver import TerminalReceiver, serving
from app.domain.demo import DEMO_USER
from app.errors import CommandFailed
from app.market import venue
from app.settings import Settings, embedded_key
from app.store import embedded, markets, migrations
from app.store.markets import Market
from app.store.pool import connect_direct
from app.store.sessions import prove_direct

log = structlog.get_logger(__name__)
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 15.0
HEALTHY_AFTER_S = 30.0
READY_WITHIN_S = 120.0
POLL_S = 0.1
_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # our own address: never through a proxy
KILL_AFTER_DRAIN_S = 5.0


def run(settings: Settings) -> None:
    """
    Serve until a signal comes.

    Raises:
        SettingInvalid: nothing says who may sign in where others can.
        CommandFailed: something needed for the start is not to be had; one sentence says what.
    """
    settings.signing_secret()  # refused here in one sentence, not by a child
    with _only_one(settings.data_dir), _database(settings) as (url, databases):
        log.info("migrating the database")
        migrations.migrate(url)
        migrations.check_current(url)  # what a newer version applied is nothing to do for migrate
        asyncio.run(prove_direct(url))
        asyncio.run(_continue_market(url, settings))
        port = settings.port or _free_port(settings.host)
        environment = os.environ | {
            "PYTHONUTF8": "1",  # what a child writes is read as UTF-8, in any locale
            "DATABASE_URL": settings.database_url or url,
            "VYX_DIRECT_DATABASE_URL": settings.direct_database_url or url,
            "VYX_PUBLIC_URL": settings.public_url or f"http://{_reachable(settings.host)}:{port}",
        }
        with _demo_receiver(settings, environment) as demo:
            children = [_web(settings, port, environment), _worker(settings, environment)]
            log.info("starting the web and the worker process")
            _serve(
                settings,
                children,
                databases,
                database_url=url,
                url=f"http://{_reachable(settings.host)}:{port}",
                demo=demo,
            )


# -- what has to be there before the children ----------------------------------------------------------------


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandFailed(
                f"vyx up already runs in {data_dir}; stop it first, or use another --data-dir."
            ) from None
        yield


@contextlib.contextmanager
def _database(settings: Settings) -> Iterator[tuple[str, list[_Watched]]]:
    """The database's direct address, and what has to be watched for it."""
    if settings.direct_database_url is not None:
        yield settings.direct_database_url, []
        return
    log.info("starting the database", data_dir=str(settings.data_dir))
    server = embedded.start(settings.data_dir)
    try:
        yield server.get_uri(), [_EmbeddedDatabase(server)]
    finally:
        server.cleanup()


@dataclass(frozen=True)
class _Demo:
    """Where the demo user's signals are sent: a receiver in this process, so that a newcomer sees one arrive."""

    receiver: TerminalReceiver
    url: str
    key: str


@contextlib.contextmanager
def _demo_receiver(settings: Settings, environment: dict[str, str]) -> Iterator[_Demo | None]:
    """On an embedded database: a receiver that the children may reach, and a key for what destinations keep secret."""
    if settings.database_url is not None:
        yield None
        return
    key = settings.secret_keys[0] if settings.secret_keys else embedded_key(settings.data_dir)
    receiver = TerminalReceiver(lambda line: print(line, file=sys.stderr, flush=True))
    with serving(receiver) as url:
        opening = f"127.0.0.1/32:{urlsplit(url).port}"
        environment.setdefault("VYX_SECRET_KEY", key)
        environment["VYX_HOOK_ALLOW"] = ",".join(filter(None, [environment.get("VYX_HOOK_ALLOW"), opening]))
        yield _Demo(receiver, url, key)


async def _continue_market(url: str, settings: Settings) -> None:
    """
    A simulated market at a speed of its own goes on where the ledger stands; nobody saw what would have
    happened meanwhile.
    """
    async with await connect_direct(url, name="vyx-up") as connection:
        stored = await markets.find(connection)
        venue.check_market(settings, stored)
        if stored is None:
            return
        if stored.source.startswith("files ") or (stored.source == "simulated" and settings.speed != 1):
            await markets.anchor(connection, speed=settings.speed)


async def _stored_market(url: str) -> Market | None:
    async with await connect_direct(url, name="vyx-up") as connection:
        return await markets.find(connection)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 compared, not bound


# -- children ------------------------------------------------------------------------------------------------


class _Watched(Protocol):
    def watch(self) -> int | None:
        """Restart after a death, with backoff; returns the exit code of a fresh death."""


@dataclass
class _EmbeddedDatabase:
    """The embedded Postgres, kept running. The others lose their connections meanwhile, and make new ones."""

    server: embedded.Server
    started: float = field(default_factory=time.monotonic)
    backoff: Backoff = field(default_factory=lambda: Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S))
    restart_at: float | None = None

    def watch(self) -> int | None:
        now = time.monotonic()
        if self.restart_at is not None:
            if now >= self.restart_at:
                self._start()
            return None
        code = self.server.exit_code()
        if code is not None:
            if now - self.started > HEALTHY_AFTER_S:
                self.backoff.reset()
            self._start_later(f"exit code {code}")
        return code

    def _start(self) -> None:
        try:
            self.server.start()
        except CommandFailed as error:
            self._start_later(str(error))
            return
        self.started, self.restart_at = time.monotonic(), None

    def _start_later(self, reason: str) -> None:
        wait_s = self.backoff.next_s()
        self.restart_at = time.monotonic() + wait_s
        log.warning("the database ended, starting it again", reason=reason, wait_s=round(wait_s, 2))


@dataclass
class _Child:
    """A process that is kept running."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = None
    started: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S))
    restart_at: float = 0.0
    said_ready: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 our own interpreter and module
            [*ending_with_us("TERM"), *self.command],
            env=self.environment,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.started = time.monotonic()
        threading.Thread(target=self._relay, args=(self.process.stdout,), daemon=True).start()

    def _relay(self, stdout: IO[str]) -> None:
        """
        A child's stdout is for us: its ready line; anything else goes to stderr, so that ours stays clean.
        """
        for line in stdout:
            if line.startswith(f"vyx {self.name} ready"):
                self.said_ready.set()
            else:
                sys.stderr.write(line)

    def watch(self) -> int | None:
        """Restart after a death, with backoff; returns the exit code of a fresh death."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.restart_at:
                self.start()
            return None
        code = self.process.poll()
        if code is None:
            return None
        if now - self.started > HEALTHY_AFTER_S:
            self.backoff.reset()
        wait_s = self.backoff.next_s()
        self.restart_at = now + wait_s
        self.process = None
        log.warning(
            "process ended, starting it again", process=self.name, exit_code=code, wait_s=round(wait_s, 2)
        )
        return code

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("not drained in time, killing it", process=self.name)
            self.process.kill()
            self.process.wait()


def _module(command: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", command]


def _web(settings: Settings, port: int, environment: dict[str, str]) -> _Child:
    flags = ["--data-dir", str(settings.data_dir), "--host", settings.host, "--port", str(port)]
    return _Child("web", [*_module("web"), *flags, "--metrics-port", _metrics_port(settings, 0)], environment)


def _worker(settings: Settings, environment: dict[str, str]) -> _Child:
    flags = ["--data-dir", str(settings.data_dir), "--host", settings.host, "--market", settings.market]
    if settings.speed != 1:
        flags += ["--speed", f"{settings.speed:g}"]
    if settings.market_from is not None:
        flags += ["--from", settings.market_from.isoformat()]
    return _Child(
        "worker", [*_module("worker"), *flags, "--metrics-port", _metrics_port(settings, 1)], environment
    )


def _metrics_port(settings: Settings, offset: int) -> str:
    """Two processes, two ports: the one given and the next."""
    if settings.metrics_port is None:
        return "off"
    return str(settings.metrics_port + offset) if settings.metrics_port else "0"


# -- serving -------------------------------------------------------------------------------------------------


def _serve(
    settings: Settings,
    children: list[_Child],
    databases: list[_Watched],
    *,
    database_url: str,
    url: str,
    demo: _Demo | None,
) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        for child in children:
            child.start()
        _await_ready(children, database_url, url, stopping)
        if not stopping.is_set():
            print(f"vyx ready {url}", flush=True)
            _welcome(settings, database_url, url, demo)
        while not stopping.wait(POLL_S):
            for watched in [*databases, *children]:
                watched.watch()
    finally:
        for child in children:
            child.stop()
        deadline = time.monotonic() + settings.drain_s + KILL_AFTER_DRAIN_S
        for child in children:
            child.wait(deadline)


def _await_ready(children: list[_Child], database_url: str, url: str, stopping: threading.Event) -> None:
    """
    Until the web process is ready, the worker registered, and (except for Binance, whose history takes
    minutes) the ledger begun.
    """
    deadline = time.monotonic() + READY_WITHIN_S
    while not stopping.wait(POLL_S):
        for child in children:
            code = child.watch()
            if code is not None and code > 0:
                raise CommandFailed(f"The {child.name} process did not start; what it said is above.")
        if (
            all(child.said_ready.is_set() for child in children)
            and _is_ready(url)
            and _has_begun(database_url)
        ):
            return
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"Not ready within {READY_WITHIN_S:g} s; what is missing is at {url}/health/ready and in the log above."
            )


def _is_ready(url: str) -> bool:
    try:
        with _OPENER.open(f"{url}/health/ready", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _has_begun(database_url: str) -> bool:
    stored = asyncio.run(_stored_market(database_url))
    return stored is not None and (stored.source == "binance" or stored.newest_slot is not None)


def _welcome(settings: Settings, database_url: str, url: str, demo: _Demo | None) -> None:
    """
    For a person on a terminal: what runs, and what to try. On stderr: stdout carries the ready line alone.
    """
    stored = asyncio.run(_stored_market(database_url))
    lines = [f"Market: {_plainly(stored.source if stored else 'no market yet', settings)}."]
    if settings.database_url is None and (names := asyncio.run(dev_data.put_demo(database_url))):
        lines.append(f"A demo user runs three example traders: {', '.join(names)}.")
    if demo is not None:
        lines += _deliver_here(demo, database_url)
    if settings.database_url is None and settings.jwks_url is None:
        token = dev_data.make_token(settings, DEMO_USER, minutes=dev_data.DEMO_TOKEN_MINUTES)
        lines += [
            "Its token, valid for a week, and two things to try:",
            "",
            f"  export TOKEN={shlex.quote(token)}",
            f'  curl -N -H "Authorization: Bearer $TOKEN" {url}/api/v1/stream',
            f'  curl -H "Authorization: Bearer $TOKEN" {url}/api/v1/traders',
            "",
        ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _deliver_here(demo: _Demo, database_url: str) -> list[str]:
    """Point the demo user's destination at this terminal; what to say about it."""
    made = dev_data.point_demo_destination(database_url, demo.key, demo.url)
    demo.receiver.secret = asyncio.run(made)
    if demo.receiver.secret is None:
        return []
    return ["Its signals are delivered to this terminal, one message per bar close: a signed webhook."]


def _plainly(source: str, settings: Settings) -> str:
    if source == "binance":
        return "Binance, live"
    if source == "simulated":
        why = "" if settings.market == "simulated" else " because Binance cannot be reached from here"
        return f"SIMULATED{why}: generated candles, no real prices, at {settings.speed:g} market minutes per minute"
    return f"real candles from {settings.market}, replayed at {settings.speed:g} market minutes per minute"
