"""
The sender of one worker: takes what is due, sends it, writes receipts. Any number of workers do the same.

Order of each delivery: lease (committed) → attempt → receipt. A sender that dies in between leaves a lease that ends after 30 s; the
next sender makes another attempt with the same id. Receipts are written in batches; while the database is away they wait, and a
receipt that comes after its lease is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from app.delivery import outbox
from app.delivery.outbox import Attempt
from app.delivery.rules import channels, messages
from app.delivery.rules.answers import Answer, Outcome, judge
from app.delivery.rules.channels import ChannelCall, HttpRequest
from app.delivery.rules.messages import Message, SignalRow
from app.delivery.rules.taking import Room
from app.delivery.rules.templates import TemplateInvalid
from app.delivery.sealing import Sealer, Unopenable
from app.metrics import DeliveryMetrics
from app.store.deliveries import Health, LeasedRow, Receipt
from app.store.pool import Pool

POLL_S = 0.25  # what another process queued waits so long; what this worker queued wakes it at once
EXPIRE_EVERY_S = 2.0
UNDER_WAY_MAX = 256
UNDER_WAY_PER_USER_MAX = 64
RECEIPTS_AFTER_S = 0.01  # gathered for so long into one transaction
RECEIPTS_AT_ONCE = 500
RETRY_DATABASE_S = 0.5

log = structlog.get_logger(__name__)


class HttpTransport(Protocol):
    async def send(self, request: HttpRequest) -> Answer:
        """One attempt; never raises for what the receiver does."""


class Channels(Protocol):
    async def send(self, call: ChannelCall) -> Answer:
        """One attempt by third-party channel code; never raises for what it does."""


class Sender:
    """
    Args:
        pool: Connections for short transactions.
        transport, third_party: How an attempt leaves this process.
        sealer: Opens the destinations' secrets; None: there is no key, and nothing is sent.
        public_url: Where links in messages lead.
        lease_s: How long an attempt may take, with its receipt; longer than the transport's own limit.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        transport: HttpTransport,
        third_party: Channels,
        sealer: Sealer | None,
        public_url: str,
        metrics: DeliveryMetrics,
        lease_s: float = outbox.LEASE_S,
    ) -> None:
        self._pool = pool
        self._transport = transport
        self._third_party = third_party
        self._sealer = sealer
        self._public_url = public_url
        self._metrics = metrics
        self._lease_s = lease_s
        self._wake = asyncio.Event()
        self._stopping = False
        self._closing = False  # of this run: it takes nothing more
        self._under_way: set[asyncio.Task[None]] = set()
        self._of_destinations: Counter[UUID] = Counter()
        self._of_users: Counter[UUID] = Counter()
        self._answered: list[tuple[Attempt, Answer, Outcome, float]] = []
        self._has_answers = asyncio.Event()
        self._expired_at = 0.0

    def wake(self) -> None:
        """Something was queued: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Send until :meth:`stop`; raises what the supervisor should see."""
        if self._sealer is None:
            log.warning("nothing is delivered: VYX_SECRET_KEY is not set")
            return await self._until_stopped()
        self._closing = False
        recording = asyncio.create_task(self._record_answers())
        try:
            while not self._stopping:
                self._wake.clear()
                if not await self._round():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await self._wake.wait()
        finally:
            await self._finish(recording)

    def stop(self) -> None:
        """Take nothing more; attempts under way end and their receipts are written."""
        self._stopping = True
        self._wake.set()

    async def _until_stopped(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()

    async def _finish(self, recording: asyncio.Task[None]) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._closing = True
        self._has_answers.set()
        await recording

    # -- taking ------------------------------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Take once and begin; True when there may be more at once."""
        if time.monotonic() - self._expired_at >= EXPIRE_EVERY_S:
            expired = await outbox.expire(self._pool)
            self._metrics.deliveries.labels("expired").inc(expired)
            if expired < outbox.EXPIRED_AT_ONCE:
                self._expired_at = time.monotonic()
        free = UNDER_WAY_MAX - len(self._under_way)
        if free <= 0:
            return False
        room = Room(
            total=free,
            per_user=UNDER_WAY_PER_USER_MAX,
            of_destinations=self._of_destinations,
            of_users=self._of_users,
        )
        attempts = await outbox.take(self._pool, room, lease_s=self._lease_s)
        for attempt in attempts:
            self._begin(attempt)
        return bool(attempts)

    def _begin(self, attempt: Attempt) -> None:
        row = attempt.row
        self._of_destinations[row.destination_id] += 1
        self._of_users[row.user_id] += 1
        task = asyncio.create_task(self._attempt(attempt))
        self._under_way.add(task)
        task.add_done_callback(lambda done: self._end(done, row))

    def _end(self, task: asyncio.Task[None], row: LeasedRow) -> None:
        self._under_way.discard(task)
        for counter, key in ((self._of_destinations, row.destination_id), (self._of_users, row.user_id)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt failed by a bug of ours", source_id=row.source_id, error=repr(error))

    # -- one attempt -------------------------------------------------------------------------------------------------------

    async def _attempt(self, attempt: Attempt) -> None:
        row = attempt.row
        answer = await self._send(attempt)
        outcome = judge(
            row.kind, answer, attempts=row.attempts, remaining_s=row.remaining_s, is_test=row.event == "test"
        )
        self._answered.append((attempt, answer, outcome, time.monotonic()))
        self._has_answers.set()

    async def _send(self, attempt: Attempt) -> Answer:
        row = attempt.row
        assert self._sealer is not None  # noqa: S101 run() returns without one
        try:
            secrets = self._sealer.open(row.destination_id, row.key_id, row.sealed)
            message = message_of(attempt, self._public_url)
            if message is None:
                return _final("its signal is gone")
            request = channels.make_request(
                row.kind, message, secrets, preset=row.preset, template=row.template, now=datetime.now(UTC)
            )
        except TemplateInvalid as error:
            return _final(str(error))
        except Unopenable as error:  # a worker with the right key may come before it expires
            return Answer(status=None, text=str(error), took_s=0.0, is_ours=True)
        if isinstance(request, ChannelCall):
            return await self._third_party.send(request)
        return await self._transport.send(request)

    # -- receipts ----------------------------------------------------------------------------------------------------------

    async def _record_answers(self) -> None:
        while True:
            await self._has_answers.wait()
            self._has_answers.clear()
            if not self._closing:
                await asyncio.sleep(RECEIPTS_AFTER_S)
            while self._answered:
                batch, self._answered = self._answered[:RECEIPTS_AT_ONCE], self._answered[RECEIPTS_AT_ONCE:]
                await self._record(batch)
            if self._closing:
                return

    async def _record(self, batch: Sequence[tuple[Attempt, Answer, Outcome, float]]) -> None:
        """Write a batch; on an outage until the leases are over, when it says nothing any more."""
        last = time.monotonic() + self._lease_s
        while True:
            try:
                now = time.monotonic()
                receipts = [_receipt(a, answer, outcome, now - at) for a, answer, outcome, at in batch]
                health, disable = _health(batch)
                ended = await outbox.record(self._pool, receipts, health, disable)
                self._metrics.record([e.state for e in ended], refused=len(receipts) - len(ended))
                return
            except (psycopg.OperationalError, PoolTimeout) as error:
                if time.monotonic() > last:
                    log.warning("receipts dropped, their leases are over", count=len(batch))
                    return
                log.warning("receipts wait for the database", count=len(batch), error=str(error).strip())
                await asyncio.sleep(RETRY_DATABASE_S)


def message_of(attempt: Attempt, public_url: str) -> Message | None:
    """What the attempt says; None when it is about a signal that is not there any more."""
    row = attempt.row
    message = messages.message_id(row.source_id, row.destination_id)
    if row.event == "signal":
        return None if row.signal_id is None else messages.of_signal(message, _signal_of(row), public_url)
    now = datetime.now(UTC)
    if row.event == "digest":
        told = [*attempt.told, *attempt.told_late]
        if not told:
            return None
        at = max(signal.created_at for signal in told)
        return messages.of_digest(message, attempt.told, attempt.told_late, at, public_url)
    if row.event == "test":
        sample = messages.of_signal(message, messages.sample_signal(now), public_url)
        return messages.as_test(sample)
    notice = row.notice or {}
    at = datetime.fromisoformat(notice["at"]) if "at" in notice else now
    return messages.of_notice(message, row.event, notice, at, public_url)


def _signal_of(row: LeasedRow) -> SignalRow:
    columns = {name: getattr(row, name) for name in SignalRow.__dataclass_fields__ if name != "id"}
    return SignalRow(id=row.signal_id or 0, **columns)


def _final(text: str) -> Answer:
    return Answer(status=None, text=text, took_s=0.0, is_final=True)


def _receipt(attempt: Attempt, answer: Answer, outcome: Outcome, ago_s: float) -> Receipt:
    return Receipt(
        source_id=attempt.row.source_id,
        destination_id=attempt.row.destination_id,
        token=attempt.token,
        state=outcome.state,
        delay_s=outcome.delay_s,
        status=answer.status,
        answer=answer.text,
        took_s=answer.took_s,
        ago_s=ago_s,
    )


def _health(
    batch: Sequence[tuple[Attempt, Answer, Outcome, float]],
) -> tuple[list[Health], dict[UUID, str]]:
    """One verdict per destination: it works if any attempt of the batch arrived."""
    verdicts: dict[UUID, list[Outcome]] = {}
    for attempt, _, outcome, _ in batch:
        if outcome.is_ok is not None or outcome.hold_s > 0 or outcome.disable:
            verdicts.setdefault(attempt.row.destination_id, []).append(outcome)
    health = []
    for destination_id, outcomes in verdicts.items():
        known = [o.is_ok for o in outcomes if o.is_ok is not None]
        health.append(
            Health(
                destination_id=destination_id,
                is_ok=any(known) if known else None,
                hold_s=max(o.hold_s for o in outcomes),
            )
        )
    disable = {d: o.disable for d, outcomes in verdicts.items() for o in outcomes if o.disable}
    return health, disable
