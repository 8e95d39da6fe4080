"""
``GET /api/v1/stream``: one client's end of the feed, as server-sent events.

How a stream ends, each time with a ``bye`` that says why: the server shuts down, the token expires, the
client fell too far behind. The client going away ends it without one. ``bye`` carries a spread-out
``retry`` so that clients do not return all at once. A cursor that cannot be resumed gets ``reset``,
in-band, never silence; the stream then goes on live.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.errors import Kind, Refused
from app.http.auth import Caller
from app.http.feed import Feed, Subscription, encode_event
from app.http.limits import CallLimit
from app.http.metrics import Metrics
from app.store import accounts
from app.store import feed as store
from app.store.pool import Connection, Pool

PING_S = 15.0
SEND_TIMEOUT_S = 5.0  # a client that takes nothing for this long holds buffers for nobody
RETRY_MS = 3000
RETRY_MS_SPREAD = (500, 5000)
BACKLOG_ROWS = 500
CURSOR_MAX = 2**63 - 1

_BYE = {
    "shutdown": "the server is shutting down; reconnect",
    "token_expired": "the token has expired; reconnect with a new one",
    "user_deleted": "the user does not exist any more",
    "keys_changed": "the API keys have changed; reconnect with one that is valid",
    "too_slow": "events were not taken fast enough; reconnect and resume",
}
_RESET = {
    "unknown": "the cursor is not an event id of this feed",
    "ahead": "the cursor is not known here: it may be from before the database was restored, or from another database",
    "expired": "the events after the cursor have been pruned",
}


@dataclass(frozen=True)
class Start:
    """Where a stream begins: after ``cursor``, and why not where the client asked, if so."""

    cursor: int
    reset: str | None = None


class Streams:
    """Opens streams of one process: so many a minute, and as many at a time as the user's tier says."""

    def __init__(
        self, feed: Feed, pool: Pool, metrics: Metrics, openings: CallLimit, *, ping_s: float = PING_S
    ) -> None:
        self.feed = feed
        self.pool = pool
        self.metrics = metrics
        self.openings = openings
        self.ping_s = ping_s
        self._open: dict[UUID, int] = {}

    @property
    def open_count(self) -> int:
        return sum(self._open.values())

    async def open(self, request: Request, caller: Caller, cursor: str | None) -> Response:
        """
        The stream as a response.

        Raises:
            Refused: RATE_LIMITED, the user has too many open or opens them too fast; UNAVAILABLE, this
            replica does not know the feed's horizon yet.
        """
        if self.feed.horizon is None:
            raise Refused(Kind.UNAVAILABLE, "This replica has not caught up with the feed yet; try again.")
        self.openings.count(caller.user_id)
        given = request.headers.get("last-event-id", cursor)
        async with self.pool.connection() as connection:
            streams_max = await accounts.stream_limit(connection, caller.user_id)
            start = await self._start(connection, caller.user_id, given, self.feed.horizon)
        # The last step: from here until the stream counts itself nothing else runs.
        if self._open.get(caller.user_id, 0) >= streams_max:
            raise Refused(
                Kind.RATE_LIMITED,
                f"At most {streams_max} streams of one user are open at a time on one replica; close one first.",
                retry_after_s=5,
            )
        if start.reset is not None:
            self.metrics.feed_resets.labels(reason=start.reset).inc()
        return EventStream(self, caller, start)

    @staticmethod
    async def _start(connection: Connection, user_id: UUID, cursor: str | None, horizon: int) -> Start:
        if cursor is None:
            return Start(horizon)
        number = _event_id(cursor)
        if number is None:
            return Start(horizon, "unknown")
        if number < await store.feed_floor(connection):
            return Start(horizon, "expired")
        # Another replica may be a few ms ahead of this one; an id that is no row of this user's is not from it.
        if number > horizon and not await store.cursor_exists(connection, user_id, number):
            return Start(horizon, "ahead")
        return Start(number)

    @contextlib.contextmanager
    def counted(self, user_id: UUID) -> Iterator[None]:
        """Counts a stream while it is open."""
        self._open[user_id] = self._open.get(user_id, 0) + 1
        self.metrics.feed_streams.inc()
        try:
            yield
        finally:
            self.metrics.feed_streams.dec()
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]


class EventStream(Response):
    """
    One client. Never buffers without bound: a client that falls behind is cut and resumes by its cursor.
    """

    def __init__(self, streams: Streams, caller: Caller, start: Start) -> None:
        super().__init__()
        self._streams = streams
        self._feed = streams.feed
        self._caller = caller
        self._start = start
        self._cursor = start.cursor

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.counted(self._caller.user_id):
            gone = asyncio.create_task(_until_disconnect(receive))
            try:
                await self._run(send, gone)
            except (TimeoutError, OSError):
                return  # it takes nothing any more, or its socket is closed: there is nobody to tell
            finally:
                gone.cancel()

    async def _run(self, send: Send, gone: asyncio.Task[None]) -> None:
        await _send(
            send,
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                    (b"x-accel-buffering", b"no"),
                ],
            },
        )
        await _write(send, b"retry: %d\n\n" % RETRY_MS + self._reset_event())
        subscription = await self._catch_up(send, gone)
        gone.add_done_callback(lambda _: subscription.end("gone"))
        try:
            reason = await self._follow(send, subscription)
        finally:
            self._feed.detach(subscription)
        if reason in _BYE:
            self._streams.metrics.feed_ends.labels(reason=reason).inc()
            await _write(send, _bye_event(_BYE[reason]), more=False)

    def _reset_event(self) -> bytes:
        if self._start.reset is None:
            return b""
        body = {"reason": _RESET[self._start.reset], "resume_from": self._start.cursor}
        # With an id, so that a client that loses the connection next does not come back with the cursor that failed.
        return b"id: %d\nevent: reset\ndata: %s\n\n" % (self._start.cursor, msgspec.json.encode(body))

    async def _catch_up(self, send: Send, gone: asyncio.Task[None]) -> Subscription:
        """
        Send what the table holds up to the horizon; attach in the same step of the loop in which nothing is
        left.
        """
        while True:
            through = self._feed.horizon or 0
            if self._cursor >= through or gone.done():
                return self._feed.attach(self._caller.user_id, is_by_key=self._caller.is_by_key)
            async with self._streams.pool.connection() as connection:
                rows = await store.read_feed(
                    connection,
                    [self._caller.user_id],
                    after=self._cursor,
                    through=through,
                    limit=BACKLOG_ROWS,
                )
            if rows:
                await _write(send, b"".join(map(encode_event, rows)))
            self._cursor = through if len(rows) < BACKLOG_ROWS else rows[-1].id

    async def _follow(self, send: Send, subscription: Subscription) -> str:
        """Send live events until the stream ends; returns why."""
        while True:
            expires_s = self._caller.expires_at - time.time()
            if expires_s <= 0:
                return "token_expired"
            if not await subscription.wait(min(self._streams.ping_s, expires_s)):
                if expires_s > self._streams.ping_s:
                    await _write(send, b": ping\n\n")
                continue
            if subscription.ended is not None and subscription.ended != "shutdown":
                return subscription.ended
            events = [(i, chunk) for i, chunk in subscription.take() if i is None or i > self._cursor]
            if events:
                await _write(send, b"".join(chunk for _, chunk in events))
                self._cursor = max([self._cursor, *(i for i, _ in events if i is not None)])
            if subscription.ended is not None:
                return subscription.ended


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, message: Message) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send(message)


async def _write(send: Send, chunk: bytes, *, more: bool = True) -> None:
    await _send(send, {"type": "http.response.body", "body": chunk, "more_body": more})


def _bye_event(reason: str) -> bytes:
    retry_ms = random.randint(*RETRY_MS_SPREAD)  # noqa: S311 spreads reconnects, protects nothing
    return b"retry: %d\nevent: bye\ndata: %s\n\n" % (retry_ms, msgspec.json.encode({"reason": reason}))


def _event_id(cursor: str) -> int | None:
    """The cursor as an id that could exist; None for anything else."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 19):  # the digits of 2**63
        return None
    number = int(cursor)
    return number if number <= CURSOR_MAX else None
