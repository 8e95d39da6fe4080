"""
The parent's side of channel processes: third-party code that knows a hundred services runs apart from everything of ours.

A child inherits no environment, so no database address and no key; it gets one call at a time, with the destination's own secret in
it, and is killed when that takes too long. What it may do besides is decided in the child (``channel_child.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec
import structlog

from app.delivery.rules.addresses import Opening
from app.delivery.rules.answers import Answer, clipped
from app.delivery.rules.channels import ChannelCall

CHILDREN_MAX = 3
TIME_LIMIT_S = 10.0
START_LIMIT_S = 10.0
WAIT_S_MAX = 5.0  # for a free child: with start and call well within a delivery's lease
CALLS_MAX = 200  # then a new child: what third-party code leaks goes with the old one
SECRET_CHARACTERS_MIN = 5  # shorter parts of a URL are not masked: they would mask ordinary words

log = structlog.get_logger(__name__)
_COMMAND = (sys.executable, "-m", "app.delivery.channel_child")
_ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
_PARTS = re.compile(r"[/:@?&=#,]+")


class Said(msgspec.Struct):
    """What a child answers."""

    ok: bool
    text: str


class ChannelProcess:
    """
    Children as they are needed, at most ``CHILDREN_MAX``; each call goes to one that is free.

    Args:
        allowed: Private ranges that may be reached.
        command: The child; another one in tests.
    """

    def __init__(
        self,
        allowed: Sequence[Opening],
        *,
        command: Sequence[str] = _COMMAND,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self._arguments = (*command, *(f"{n}:{port or ''}" for n, port in allowed))
        self._time_limit_s = time_limit_s
        self._places = asyncio.Semaphore(CHILDREN_MAX)
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def send(self, call: ChannelCall) -> Answer:
        """One attempt; what the channel's code does or does not do is the answer."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await self._places.acquire()
        except TimeoutError:
            return Answer(
                status=None, text="no channel process was free", took_s=time.monotonic() - began, is_ours=True
            )
        try:
            said = await self._ask(call)
        except TimeoutError:
            said = Said(ok=False, text="no answer in time")
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
            log.warning("channel process died", error=type(error).__name__)
            said = Said(ok=False, text="the channel's code crashed")
        finally:
            self._places.release()
        text = clipped(masked(said.text, call.url))
        return Answer(status=200 if said.ok else None, text=text, took_s=time.monotonic() - began)

    async def close(self) -> None:
        """End every child."""
        for child in list(self._all):
            await self._end(child)

    async def _ask(self, call: ChannelCall) -> Said:
        child = self._idle.pop() if self._idle else await self._start()
        done = False
        try:
            async with asyncio.timeout(self._time_limit_s):
                said = await child.ask(call)
            done = True
            return said
        finally:
            if done and child.calls < CALLS_MAX:
                self._idle.append(child)
            else:
                await self._end(child)

    async def _start(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        child = _Child(process)
        self._all.add(child)
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await child.ready()
        except BaseException:
            await self._end(child)
            raise
        return child

    async def _end(self, child: _Child) -> None:
        self._all.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        with contextlib.suppress(ProcessLookupError):
            child.process.kill()
        await child.process.wait()
        if child.process.stdin is not None:
            child.process.stdin.close()


class _Child:
    """One process and how many calls it has had."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.calls = 0

    async def ready(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 asked for at the start
        await self.process.stdout.readexactly(1)

    async def ask(self, call: ChannelCall) -> Said:
        """
        Raises:
            EOFError: it died. msgspec.MsgspecError: it said something that is no answer.
        """
        assert self.process.stdin is not None  # noqa: S101 asked for at the start
        assert self.process.stdout is not None  # noqa: S101 asked for at the start
        self.calls += 1
        self.process.stdin.write(msgspec.json.encode(call) + b"\n")
        await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return msgspec.json.decode(line, type=Said)


def masked(text: str, url: str) -> str:
    """*text* without any part of *url* that could be a secret."""
    rest = url.partition("://")[2]
    for part in sorted({p for raw in _PARTS.split(rest) for p in (raw, unquote(raw))}, key=len, reverse=True):
        if len(part) >= SECRET_CHARACTERS_MIN and "." not in part:
            text = text.replace(part, "…")
    return text
