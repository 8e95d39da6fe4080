"""
Attacks on compiling, in small: what a filter may cost whatever it contains, and who is served meanwhile.

The victim's service is shown by counts and order, not by a clock.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.bounded.filters import BoundedFilters
from app.bounded.questions import Compiled, Explain, Explained
from app.errors import Kind, Refused
from app.lifecycle import Lifecycle
from app.turns import SharedQueue
from sandbox.plan.text.diagnostics import Diagnostic

CPU_S_MAX = 1.5
RIGHT = "signal(bars('1h').close > 1)"
HEAD = "c = bars('1m').close\n"
ATTACKS = {
    "unknown names": HEAD
    + "\n".join(f"x{i} = unknown_{i}_{'a' * 40} + c" for i in range(900))
    + "\nsignal(c > 1)\n",
    "unknown names in functions": HEAD
    + "\n".join(
        f"def f{i}(c):\n    return " + " + ".join(f"nobody_{i}_{k}" for k in range(150)) for i in range(15)
    )
    + "\nsignal("
    + " or ".join(f"each(f{i}, c) > 0" for i in range(15))
    + ")",
    "and": HEAD + "signal(" + " and ".join(["c > 1"] * 4000) + ")",
    "and within the limit": HEAD + "signal(" + " and ".join(["c > 1"] * 2400) + ")",
    "chained comparison": HEAD + "signal(" + "<".join(["c"] * 30000) + ")",
    "chained comparison within the limit": HEAD + "signal(" + "<".join(["c"] * 6000) + ")",
    "endless loop": "while True: pass\n",
    "endless loop that fails": "while True:\n    try:\n        1 / 0\n    except Exception:\n        pass\n",
    "never used": "\n".join(f"name_{i} = 1" for i in range(3500)) + "\nsignal(q)",
    "keywords": "signal(f(" + ",".join(f"a{i}=zz{i}" for i in range(4000)) + "))",
    "walrus": "signal(" + " or ".join(["(a := 1)"] * 3500) + ")",
    "nested and": "signal(" + "(1 and " * 70 + " or ".join(["c"] * 5000) + ")" * 70 + ")",
    "nested functions": "x = " + "[" * 40 + "each" + " for a in b]" * 40 + "\n" + "y = 1\n" * 3000,
    "one long line": "x = [" + "é," * 9000 + "]\nsignal(x)",
    "classes": "\n".join(f"class A{i}(B): pass" for i in range(3000)),
    "shown": HEAD + "show(" + ",".join(f"a{i}=c" for i in range(4000)) + ")\nsignal(c > 1)",
    "failing statements": "\n".join(f"x{i} = 1 / 0" for i in range(2500)) + "\nsignal(1)",
    "huge power": "x = 9 ** 9 ** 9\nsignal(x)",
    "hundreds of f-strings": "\n".join(f"t{i} = f'{{a < b}}{{c > d}}'" for i in range(700)) + "\nsignal(q)",
}


@pytest.fixture
async def filters() -> AsyncIterator[BoundedFilters]:
    async with BoundedFilters(processes=1) as filters:
        await filters.compile(RIGHT)
        yield filters


def cpu_s_of(session: int) -> float:
    """CPU seconds of every process of a session, with what their children that ended used."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                ticks += sum(int(fields[at]) for at in (11, 12, 13, 14))
    return ticks / os.sysconf("SC_CLK_TCK")


async def test_every_attack_gets_its_diagnostic_within_its_cpu_time(filters):
    """One child for all of them: none ends it, and it compiles afterwards."""
    child = filters._all[0]
    pid = child.pid
    for name, source in ATTACKS.items():
        before_s = cpu_s_of(pid)
        compiled = await filters.compile(source)
        spent_s = cpu_s_of(pid) - before_s

        assert any(item.severity == "error" for item in compiled.diagnostics) or compiled.plan, name
        assert spent_s <= 2 * CPU_S_MAX, name  # a busy machine charges more for the same work
        assert child.pid == pid, name
    assert (await filters.compile(RIGHT)).diagnostics == []


class GatedFilters:
    """Filters whose compilation ends when the test says so; counts what is being compiled."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()

    async def compile(self, source: str) -> Compiled:
        self.begun.append(source)
        if source == "attack":
            await self.gate.wait()
        return Compiled(None, [Diagnostic(1, 1, 1, 2, "error", "V101", "no", "")])

    async def explain(self, question: Explain) -> Explained:
        raise AssertionError(question)


async def test_ten_saves_of_one_user_leave_a_child_for_everybody_else():
    filters = GatedFilters()
    queue = SharedQueue("filters", places=3, waiting_max=8, wait_s=60)
    lifecycle = Lifecycle(None, None, filters, queue, active_traders_max=None)
    attacker = uuid.uuid4()
    attacks = [asyncio.create_task(lifecycle.check(attacker, "attack")) for _ in range(10)]
    await asyncio.sleep(0)

    for _ in range(5):
        await lifecycle.check(uuid.uuid4(), "victim")
    with pytest.raises(Refused) as refused:
        await lifecycle.check(attacker, "attack")

    assert filters.begun == ["attack"] * 2 + ["victim"] * 5
    assert refused.value.kind is Kind.BUSY
    filters.gate.set()
    await asyncio.gather(*attacks)
    assert filters.begun.count("attack") == 10
