"""
The gap-free feed: one reader per process follows signals and trader events and hands them to its streams.

Ids are drawn before commit, so id 11 can be visible before id 10, and a reader at ``id > 11`` never sees 10 (such readers lost
5-43 % of rows). Writers therefore hold a shared advisory lock from before their first id until after their commit is visible, and
this reader publishes only up to a *horizon*. Each poll, each step a statement of its own:

1. P := greatest visible id. 2. Then H := the holders of the lock.
3. No candidate: H empty → horizon := max(horizon, P); else if P > horizon, candidate := (P, H).
4. Candidate (P₀, H₀): H₀ := H₀ ∩ H; empty → horizon := P₀, go to 3.
5. Publish ``published < id <= horizon`` in order.

Ids rise, so every id <= P was drawn before P's row committed, by a transaction that held the lock by then. At step 2 it is in H or
has ended, and locks go after the commit is visible: when H is gone, everything up to P is visible or never will be.
P is never the sequence's own value: reading that lost rows, rarely. What must change with this file: ``*_feed.sql``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from uuid import UUID

import msgspec
import psycopg
import structlog

from app.backoff import Backoff
from app.coordination.hints import Channel, listen
from app.domain.lifecycle import TraderState
from app.http import shapes
from app.http.delivery_events import DeliveryEvents
from app.http.metrics import Metrics
from app.store import accounts
from app.store import feed as store
from app.store.pool import Connection, connect_direct

POLL_S = 1.0  # a lost hint costs no more than this
CANDIDATE_POLL_S = 0.005
CANDIDATE_POLL_S_MAX = 0.1  # while a writer hangs
PENDING_MAX = 1000  # events a client may fall behind before it is cut; it resumes by its cursor
PAGE_ROWS = (
    PENDING_MAX // 2
)  # offered at once, between two reads in which the streams send: a slot's burst cuts nobody who takes it
DELETED_MAX = 1000  # users remembered as gone, until no request of theirs can still be on its way to a stream
RECONNECT_S = 0.2
RECONNECT_S_MAX = 3.0

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class Watermark:
    """Steps 3 and 4: from positions and lock holders to the horizon. ``horizon`` is None until the first one is known."""

    def __init__(self) -> None:
        self.horizon: int | None = None
        self._candidate: tuple[int, frozenset[str]] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether some visible row is held back by a writer that has not ended."""
        return self._candidate is not None

    def observe(self, position: int, writers: frozenset[str]) -> None:
        """One poll: *position* was read first, *writers* after it."""
        if self._candidate is not None:
            candidate, remaining = self._candidate[0], self._candidate[1] & writers
            if remaining:
                self._candidate = (candidate, remaining)
                return
            self._candidate = None
            self.horizon = max(candidate, self.horizon or 0)
        if not writers:
            self.horizon = max(position, self.horizon or 0)
        elif self.horizon is None or position > self.horizon:
            self._candidate = (position, writers)

    def forget_candidate(self) -> None:
        """After a reconnect: the holders' names may mean others on a restarted server."""
        self._candidate = None


class Subscription:
    """One listener of one user's events: a bounded queue of encoded events, and why it ended, once it has."""

    def __init__(self, user_id: UUID, *, is_by_key: bool = False) -> None:
        self.user_id = user_id
        self.is_by_key = is_by_key
        self.ended: str | None = None
        self._pending: deque[tuple[int | None, bytes]] = deque()
        self._wake = asyncio.Event()

    def offer(self, event_id: int | None, chunk: bytes) -> None:
        """An event; one without an id is told live only and moves no cursor."""
        if len(self._pending) >= PENDING_MAX:
            self.end("too_slow")
        else:
            self._pending.append((event_id, chunk))
            self._wake.set()

    def end(self, reason: str) -> None:
        """Tell the listener to stop; the first reason stays."""
        self.ended = self.ended or reason
        self._wake.set()

    async def wait(self, timeout_s: float) -> bool:
        """Until there is something to take or it has ended: True. False when *timeout_s* have passed."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._wake.wait()
        except TimeoutError:
            return False

    def take(self) -> list[tuple[int | None, bytes]]:
        """Everything pending, oldest first."""
        taken = list(self._pending)
        self._pending.clear()
        if self.ended is None:
            self._wake.clear()
        return taken


class Announcements:
    """Wakes everyone who waits, each time something is announced."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def upcoming(self) -> asyncio.Event:
        """Set by the next announcement: take it first, look second, wait third, and none is missed."""
        return self._next


class Feed:
    """
    The process's reader and its subscriptions. ``run`` reads until it is cancelled.

    A subscriber attaches at ``horizon`` in the same step of the event loop in which it learns it: what is at or below it stands in
    the table for good, what is above it will be offered.
    """

    def __init__(
        self,
        direct_url: str,
        metrics: Metrics,
        *,
        on_user_changed: Callable[[UUID | None], None] = lambda _: None,
    ) -> None:
        self._direct_url = direct_url
        self._on_user_changed = on_user_changed
        self._metrics = metrics
        self._watermark = Watermark()
        self._subscriptions: dict[UUID, set[Subscription]] = {}
        self._deleted: deque[UUID] = deque(maxlen=DELETED_MAX)
        self._closed: str | None = None
        self._deliveries = DeliveryEvents()
        self.horizon: int | None = None
        self.has_horizon = asyncio.Event()
        self.previews = Announcements()
        self.polled_at: float | None = None

    def attach(self, user_id: UUID, *, is_by_key: bool = False) -> Subscription:
        """
        A subscription to everything after ``horizon``; detach it when done. Ended from the start on a closed feed.

        One *is_by_key* ends when its user's API keys change: the client reconnects with a key that is valid, or does not.
        """
        subscription = Subscription(user_id, is_by_key=is_by_key)
        if self._closed is not None:
            subscription.end(self._closed)
        elif user_id in self._deleted:
            subscription.end("user_deleted")
        self._subscriptions.setdefault(user_id, set()).add(subscription)
        return subscription

    def detach(self, subscription: Subscription) -> None:
        of_user = self._subscriptions.get(subscription.user_id, set())
        of_user.discard(subscription)
        if not of_user:
            self._subscriptions.pop(subscription.user_id, None)

    def close(self, reason: str) -> None:
        """End every subscription, and each that still comes."""
        self._closed = reason
        for of_user in self._subscriptions.values():
            for subscription in of_user:
                subscription.end(reason)

    def poll_age_s(self) -> float | None:
        """Seconds since the last poll that succeeded; None before the first."""
        return None if self.polled_at is None else time.monotonic() - self.polled_at

    async def run(self) -> None:
        """Follow the feed, reconnecting for ever."""
        backoff = Backoff(RECONNECT_S, RECONNECT_S_MAX)
        while True:
            try:
                connection = await connect_direct(self._direct_url, name="vyx feed")
                async with connection:
                    backoff.reset()
                    await listen(connection, Channel.FEED, Channel.PREVIEW, Channel.USER)
                    self._on_user_changed(None)  # whoever was deleted while nobody listened
                    await self._end_deleted(connection, self._subscriptions)
                    await self._follow(connection)
            except (psycopg.Error, OSError) as error:
                self._metrics.feed_reconnects.inc()
                _log.warning("feed reader lost its connection", error=str(error).strip())
            self._watermark.forget_candidate()
            await asyncio.sleep(backoff.next_s())

    async def _follow(self, connection: Connection) -> None:
        pause_s = CANDIDATE_POLL_S
        while True:
            before = self.horizon
            await self.poll(connection)
            if not self._watermark.is_waiting:
                pause_s = CANDIDATE_POLL_S
                changed: set[UUID] = set()
                async for notification in connection.notifies(timeout=POLL_S, stop_after=1):
                    # of the feed's own rows it is only a hint: the poll asks the table
                    if notification.channel == Channel.PREVIEW:
                        self.previews.announce()
                    elif notification.channel == Channel.USER:
                        changed.add(UUID(notification.payload))
                await self._note_changed(connection, changed)
                continue
            pause_s = CANDIDATE_POLL_S if self.horizon != before else min(pause_s * 1.5, CANDIDATE_POLL_S_MAX)
            await asyncio.sleep(pause_s)

    async def _note_changed(self, connection: Connection, user_ids: set[UUID]) -> None:
        """These users' accounts or keys have changed: forget what is remembered of them, and end the streams of who is gone."""
        for user_id in user_ids:
            self._on_user_changed(user_id)
            for subscription in self._subscriptions.get(user_id, ()):
                if subscription.is_by_key:
                    subscription.end("keys_changed")
        await self._end_deleted(connection, user_ids)

    async def _end_deleted(self, connection: Connection, user_ids: Collection[UUID]) -> None:
        if not user_ids:
            return
        for user_id in await accounts.missing_users(connection, user_ids):
            self._deleted.append(user_id)  # a stream of theirs may be about to open
            for subscription in self._subscriptions.get(user_id, ()):
                subscription.end("user_deleted")

    async def poll(self, connection: Connection) -> None:
        """One poll: observe, then publish what became final."""
        position = await store.greatest_visible_id(connection)
        writers = await store.feed_writers(connection)
        self._watermark.observe(position, writers)
        through = self._watermark.horizon
        if self.horizon is None:
            self.horizon = through  # nobody can have attached before
            if through is not None:
                self.has_horizon.set()
        elif through is not None and through > self.horizon:
            await self._publish_through(connection, through)
        for user_id, chunk in await self._deliveries.look(connection, self._subscriptions):
            for subscription in self._subscriptions.get(user_id, ()):
                subscription.offer(None, chunk)
        self._metrics.feed_polls.inc()
        self._metrics.feed_horizon.set(self.horizon or 0)
        self.polled_at = time.monotonic()

    async def _publish_through(self, connection: Connection, through: int) -> None:
        """Publish ``(horizon, through]`` page by page; ``horizon`` moves in the same step of the loop as each page is offered."""
        while self.horizon is not None and self.horizon < through:
            readers = frozenset(self._subscriptions)
            rows: list[store.Entry] = []
            if readers:
                rows = await store.read_feed(
                    connection, readers, after=self.horizon, through=through, limit=PAGE_ROWS
                )
            if not readers.issuperset(self._subscriptions):
                continue  # someone attached during the read, at the old horizon: read again for them too
            self._offer(rows)
            self.horizon = through if len(rows) < PAGE_ROWS else rows[-1].id

    def _offer(self, entries: Iterable[store.Entry]) -> None:
        for entry in entries:
            subscriptions = self._subscriptions.get(entry.user_id)
            if subscriptions:
                chunk = encode_event(entry)
                self._metrics.feed_events.labels(event="signal" if entry.to_state is None else "trader").inc(
                    len(subscriptions)
                )
                for subscription in subscriptions:
                    subscription.offer(entry.id, chunk)


def encode_event(entry: store.Entry) -> bytes:
    """An entry as the bytes of a server-sent event, with its id."""
    name, body = _named(entry)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.id, name.encode(), _encode(body))


def encode_entry(entry: store.Entry) -> bytes:
    """An entry as a JSON object ``{event, data}``, with the stream's names."""
    name, body = _named(entry)
    return _encode({"event": name, "data": body})


def _named(entry: store.Entry) -> tuple[str, object]:
    return ("signal", _signal(entry)) if entry.to_state is None else ("trader", _trader_event(entry))


def _signal(entry: store.Entry) -> dict[str, object]:
    return {
        "id": entry.id,
        "trader_id": entry.trader_id,
        "symbol": entry.symbol,
        "timeframe": entry.timeframe,
        "triggered_at": entry.triggered_at,
        "price": entry.price,
        "values": entry.shown,
        "screened_at": entry.screened_at,
        "created_at": entry.created_at,
        "late": entry.late,
        "forming": entry.forming,
    }


def _trader_event(entry: store.Entry) -> shapes.TraderEvent:
    assert entry.from_state is not None and entry.to_state is not None  # noqa: S101, PT018 not null in the table
    assert entry.version is not None and entry.at is not None  # noqa: S101, PT018 not null in the table
    return shapes.TraderEvent(
        id=entry.id,
        trader_id=entry.trader_id,
        from_state=TraderState(entry.from_state),
        state=TraderState(entry.to_state),
        reason=entry.reason,
        version=entry.version,
        at=entry.at,
    )
