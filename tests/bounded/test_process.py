"""Bounded children: what they give up, and what becomes of a question whose child ends."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import pytest

from app.bounded import filter_child
from app.bounded.confine import Confinement
from app.bounded.filters import BoundedFilters, filter_process
from app.bounded.process import BoundedProcess, Crashed, OutOfTime

READY = "import sys, struct, os, signal, time\nout = sys.stdout.buffer\ndef say(b):\n    out.write(struct.pack('<I', len(b)) + b); out.flush()\nsay(b'{}')\n"
RIGHT = "signal(bars('1h').close > 1)"


def child(code: str, *, wall_limit_s: float = 30.0) -> BoundedProcess:
    return BoundedProcess(
        (sys.executable, "-c", READY + code), wall_limit_s=wall_limit_s, answer_bytes_max=1000
    )


async def ask(process: BoundedProcess, question: bytes = b"x") -> bytes:
    async with process.conversation() as conversation:
        await conversation.send([question])
        return await conversation.receive()


async def test_a_child_is_kept_for_the_next_question():
    process = child("while sys.stdin.buffer.read(1): say(b'yes')")
    first = await ask(process)
    pid = process.pid

    assert first == await ask(process) == b"yes"
    assert process.pid == pid
    await process.close()


async def test_a_child_that_dies_is_a_crash_and_the_next_question_has_a_new_one():
    process = child("sys.stdin.buffer.read(1); os._exit(3)")

    for _ in range(2):
        with pytest.raises(Crashed, match="status 3"):
            await ask(process)

    assert process.pid is None


async def test_a_child_that_uses_up_its_cpu_time_is_out_of_time():
    process = child("sys.stdin.buffer.read(1)\nsignal.setitimer(signal.ITIMER_PROF, 0.05)\nwhile True: pass")

    with pytest.raises(OutOfTime):
        await ask(process)

    assert process.pid is None


async def test_a_child_that_waits_for_ever_is_ended_by_the_wall_clock():
    process = child("sys.stdin.buffer.read(1); time.sleep(600)", wall_limit_s=0.2)

    with pytest.raises(OutOfTime):
        await ask(process)

    assert process.pid is None


async def test_an_answer_that_is_too_long_is_a_crash():
    process = child(
        "sys.stdin.buffer.read(1); out.write(struct.pack('<I', 2**31)); out.flush(); time.sleep(60)"
    )

    with pytest.raises(Crashed, match="too long"):
        await ask(process)


async def test_what_a_child_started_ends_with_it():
    process = child(
        "sys.stdin.buffer.read(1)\npid = os.fork()\nif pid == 0:\n    time.sleep(600)\nsay(str(pid).encode())\n"
        "sys.stdin.buffer.read(1)"
    )
    grandchild = int(await ask(process))

    await process.close()

    async with asyncio.timeout(5):
        while b"Z" not in state_of(grandchild):
            await asyncio.sleep(0.01)


def state_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1]
    except FileNotFoundError:
        return b"Z"


async def test_a_cancelled_question_ends_its_child():
    process = child("sys.stdin.buffer.read(1); time.sleep(600)")
    await process.start()
    asking = asyncio.create_task(ask(process))
    await asyncio.sleep(0)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert process.pid is None


async def test_a_child_for_filters_holds_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://hush")
    process = filter_process()
    await process.start()
    assert process.pid is not None

    seen = look_at(process.pid)
    confinement = msgspec.json.decode(process.ready, type=Confinement)
    await process.close()

    assert b"hush" not in seen.environment
    assert seen.connections == 0
    assert confinement.no_new_privileges
    assert "NoNewPrivs:\t1" in seen.status
    assert seen.memory == (filter_child.MEMORY_BYTES_MAX, filter_child.MEMORY_BYTES_MAX)
    assert confinement.no_network == (seen.network != Path("/proc/self/ns/net").readlink())  # noqa: ASYNC240 no disk
    assert confinement.own_uid == (seen.uid not in {0, os.getuid()})


@dataclass(frozen=True)
class Seen:
    environment: bytes
    status: str
    memory: tuple[int, int]
    network: Path
    connections: int
    uid: int


def look_at(pid: int) -> Seen:
    proc = Path(f"/proc/{pid}")
    status = (proc / "status").read_text()
    return Seen(
        environment=(proc / "environ").read_bytes(),
        status=status,
        memory=resource.prlimit(pid, resource.RLIMIT_AS),
        network=(proc / "ns/net").readlink(),
        connections=len(psutil.Process(pid).net_connections("inet")),
        uid=int(re.search(r"Uid:\s+(\d+)", status)[1]),
    )


async def test_a_filter_whose_child_dies_gets_a_diagnostic():
    broken = iter([child("sys.stdin.buffer.read(1); os._exit(3)")])
    async with BoundedFilters(processes=1, make=lambda: next(broken)) as filters:
        compiled = await filters.compile(RIGHT)

    assert [item.code for item in compiled.diagnostics] == ["V307"]


async def test_nonsense_instead_of_an_answer_is_a_crash():
    body = msgspec.msgpack.encode({"type": "explained", "explanation": None, "problem": "no"})
    code = f"sys.stdin.buffer.read(1); say({body!r}); time.sleep(60)"
    async with BoundedFilters(processes=1, make=lambda: child(code)) as filters:
        compiled = await filters.compile(RIGHT)

    assert [item.code for item in compiled.diagnostics] == ["V307"]
