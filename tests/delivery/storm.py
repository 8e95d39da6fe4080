"""
A storm of deliveries: sender processes that are killed, receivers that misbehave, and a judge that compares every row with the
receivers' own log. Used by the fault test, and by ``bench/delivery.py`` at full size.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from aiohttp import web

ROOT = Path(__file__).parents[2]
LEASE_S = 3.0
TIMEOUT_S = 1.0
GROWN_UP_S = 2.5  # a process on a busy machine has hardly started before
EXPIRES_AFTER_S = {
    "redirect": 60,
    "gone": 60,
    "hang": 60,
    "drop": 300,
}  # of the full run: what seldom or never arrives
BEHAVIOURS = ("ok", "slow", "drop", "flaky", "throttle", "redirect", "gone", "hang")


@dataclass(frozen=True)
class Request:
    """What the receiver read, and what it then did: a status, or 0 for a closed connection."""

    path: str
    message_id: str
    body: bytes
    did: int


@dataclass
class Storm:
    """
    Args:
        dsn: A migrated database; its destinations point at ``url`` + a behaviour.
        senders: Processes at a time.
        kill_every_s: One of them is killed, and replaced.
        kill_while_answering: How many requests in a hundred kill a sender after they were read and before they are answered.
    """

    dsn: str
    senders: int = 2
    kill_every_s: float = 2.0
    kill_while_answering: float = 0.5
    log: list[Request] = field(default_factory=list)
    kills: int = 0
    url: str = ""
    _tries: Counter[str] = field(default_factory=Counter)
    _processes: list[tuple[asyncio.subprocess.Process, float]] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    # -- the receiver ------------------------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        behaviour = request.path.split("/")[1]
        message_id = request.headers["webhook-id"]
        self._tries[message_id] += 1
        status = self._status(behaviour, self._tries[message_id])
        self.log.append(Request(request.path, message_id, body, status))
        if self._random.random() * 100 < self.kill_while_answering:
            self._kill()
        if behaviour == "slow":
            await asyncio.sleep(0.2)
        if behaviour == "hang":
            await asyncio.sleep(TIMEOUT_S + 0.5)
        if status == 0:
            if request.transport is not None:  # the sender has gone already
                request.transport.abort()
            return web.Response()
        headers = {"retry-after": "1"} if status == 429 else {"location": "/ok"} if status == 302 else {}
        return web.Response(status=status, headers=headers, text="x" * 300)

    def _status(self, behaviour: str, tries: int) -> int:
        statuses = {
            "drop": 0 if tries == 1 else 200,
            "hang": 0 if tries == 1 else 200,
            "flaky": 500 if self._random.random() < 0.3 else 200,
            "throttle": 429 if self._random.random() < 0.2 else 200,
            "redirect": 302,
            "gone": 410,
        }
        return statuses.get(behaviour, 200)

    # -- the senders -------------------------------------------------------------------------------------------------------

    async def _start_sender(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.delivery.sender_process",
            self.dsn,
            str(LEASE_S),
            str(TIMEOUT_S),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        self._processes.append((process, time.monotonic()))

    def _kill(self) -> None:
        """SIGKILL one that has lived long enough to have sent something."""
        now = time.monotonic()
        alive = [p for p, born in self._processes if p.returncode is None and now - born > GROWN_UP_S]
        if alive:
            self._random.choice(alive).send_signal(signal.SIGKILL)
            self.kills += 1

    async def _tend(self) -> None:
        """Kill one now and then; replace the dead."""
        killed_at = time.monotonic()
        while True:
            self._processes = [(p, born) for p, born in self._processes if p.returncode is None]
            while len(self._processes) < self.senders:
                await self._start_sender()
            await asyncio.sleep(0.05)
            if time.monotonic() - killed_at > self.kill_every_s:
                killed_at = time.monotonic()
                self._kill()

    # -- the whole ---------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def receiving(self) -> Any:
        """The receiver listens; ``url`` is set."""
        application = web.Application()
        application.router.add_route("POST", "/{path:.*}", self.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def until_nothing_is_pending(self, within_s: float) -> None:
        tending = asyncio.create_task(self._tend())
        deadline = time.monotonic() + within_s
        try:
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
                while await _pending(connection):
                    assert time.monotonic() < deadline, f"still pending after {within_s:g} s"
                    assert not tending.done(), tending.exception()
                    await asyncio.sleep(0.2)
        finally:
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)
            await self._end_senders()

    async def _end_senders(self) -> None:
        for process, _ in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process, _ in self._processes:
            await process.wait()


async def _pending(connection: psycopg.AsyncConnection[Any]) -> bool:
    cursor = await connection.execute(
        "select exists (select from vyx.deliveries where state = 'pending' and event = 'signal')"
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


@dataclass
class Verdict:
    """Row by row: what the outbox says against what the receivers logged."""

    deliveries: int
    states: Counter[str]
    requests: int
    faults: list[str]
    arrived_unrecorded: int


def judge(rows: Sequence[tuple[int, UUID, str, str, int, int | None]], log: Sequence[Request]) -> Verdict:
    """
    *rows*: (source_id, destination_id, event, state, attempts, status) of every delivery.

    A delivery that arrived without a receipt (its sender was killed) and then expired is counted, not a fault.
    """
    by_id: dict[str, list[Request]] = defaultdict(list)
    for request in log:
        by_id[request.message_id].append(request)
    faults: list[str] = []
    known: set[str] = set()
    unrecorded = 0
    for source_id, destination_id, event, state, attempts, status in rows:
        name = (
            f"msg_{source_id}_{destination_id}" if source_id >= 0 else f"msg_n{-source_id}_{destination_id}"
        )
        known.add(name)
        requests = by_id.get(name, [])
        arrived = [r for r in requests if r.did == 200]
        if state == "sent" and (not arrived or status != 200):
            faults.append(f"{name}: sent, and the receiver answered no 200")
        if state == "pending" and event == "signal":
            faults.append(f"{name}: still pending")
        if len(requests) > attempts:
            faults.append(f"{name}: {attempts} attempts, {len(requests)} requests")
        if len({r.body for r in requests}) > 1:
            faults.append(f"{name}: its attempts differ")
        if event == "signal" and any(json.loads(r.body)["data"]["id"] != source_id for r in requests):
            faults.append(f"{name}: carries another signal")
        unrecorded += state != "sent" and bool(arrived)
    if not log:
        faults.append("nothing reached the receivers")
    faults += [f"{name}: the receiver got what the outbox does not know" for name in by_id.keys() - known]
    return Verdict(len(rows), Counter(r[3] for r in rows), len(log), faults, unrecorded)
