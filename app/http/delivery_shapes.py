"""
The JSON of destinations and deliveries, as types. What cannot be said in a type is checked by ``app/delivery/destinations.py``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType, field

from app.http.shapes import BIGINT_MAX, Cursor, Instant, Name

Kind = Literal["webhook", "telegram", "discord", "slack", "email", "ntfy", "pushover", "apprise"]
Event = Literal["signal", "error", "recovered", "lagging", "outage", "quota", "destination_disabled"]
State = Literal["pending", "sent", "failed", "expired", "digested"]
Preset = Literal["3commas", "altrady", "traderspost", "freqtrade", "generic", "cornix"]
Events = Annotated[list[Event], Meta(min_length=1, max_length=7)]
Text = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
Texts = dict[Annotated[str, Meta(min_length=1, max_length=64)], Text]
TraderIds = Annotated[list[UUID], Meta(min_length=1, max_length=1000)]
Template = Annotated[str, Meta(min_length=1, max_length=8192, pattern=r"^[^\x00]*$")]
ExpiresAfter = Annotated[int, Meta(ge=5, le=7 * 24 * 3600)]
TimeOfDay = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Zone = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")]


class QuietHours(Struct, forbid_unknown_fields=True):
    """Nothing is sent from one time of day until the other, in a time zone such as Europe/Berlin."""

    start: TimeOfDay = field(name="from")
    until: TimeOfDay
    zone: Zone


class Digest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """
    Signals gathered into one message: ``every_s``, at most one in so many seconds (a delivery's life is longer by as much), or
    ``per``, one for each bar close with everything that matched at it.
    """

    every_s: Annotated[int, Meta(ge=60, le=86400)] | None = None
    per: Literal["bar_close"] | None = None


class DestinationRate(Struct, forbid_unknown_fields=True):
    """At most so many messages in so many seconds, evenly spaced."""

    messages: Annotated[int, Meta(ge=1, le=10_000)]
    per_s: Annotated[int, Meta(ge=1, le=86_400)]


class NewDestination(Struct, forbid_unknown_fields=True, kw_only=True):
    """
    A webhook, Discord or Slack needs ``url``; the other kinds ``settings``: telegram bot_token and chat_id; email smtp_host, from, to
    (smtp_port, smtp_user, smtp_password, smtp_security); ntfy topic (token); pushover app_token and user_key; apprise a ``url`` of
    that library. ``preset`` fills the body a trading bot expects.
    """

    name: Name
    kind: Kind
    url: Text | None = None
    headers: Texts = {}
    settings: Texts = {}
    signature: Literal["hmac", "ed25519"] = "hmac"
    events: Events = field(default_factory=lambda: ["signal"])
    trader_ids: TraderIds | None = None
    preset: Preset | None = None
    template: Template | None = None
    quiet_hours: QuietHours | None = None
    digest: Digest | None = None
    rate: DestinationRate | None = None
    expires_after_s: ExpiresAfter | None = None


class DestinationChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """
    What is left out stays as it is. ``enabled: true`` also after it was disabled for failing. ``rotate_secret`` makes a new secret,
    said once in this answer; for 24 hours messages carry a signature of each.
    """

    name: Name | UnsetType = UNSET
    url: Text | UnsetType = UNSET
    headers: Texts | UnsetType = UNSET
    settings: Texts | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    trader_ids: TraderIds | UnsetType | None = UNSET
    preset: Preset | UnsetType | None = UNSET
    template: Template | UnsetType | None = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
    digest: Digest | UnsetType | None = UNSET
    rate: DestinationRate | UnsetType | None = UNSET
    expires_after_s: ExpiresAfter | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    rotate_secret: bool = False


class Destination(Struct, kw_only=True):
    """``hint``: enough of the address to recognise it. ``failing_since``: every attempt since has failed; after 5 days it is disabled."""

    id: UUID
    name: str
    kind: Kind
    hint: str
    events: list[Event]
    trader_ids: list[UUID] | None
    preset: str | None
    template: str | None
    quiet_hours: QuietHours | None
    digest: Digest | None
    rate: DestinationRate | None
    expires_after_s: int | None
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime


class MadeDestination(Destination, kw_only=True):
    """With what only this answer says: the secret of the signatures (`whsec_…`), or the public key to check them with (`whpk_…`)."""

    secret: str | None
    public_key: str | None


class DestinationFigures(Struct, kw_only=True):
    """Its newest 10,000 deliveries: how many ended how; from queued to answered, of those that were sent."""

    sent: int
    failed: int
    expired: int
    pending: int
    success_rate: float | None
    p50_ms: float | None
    p99_ms: float | None
    last_failure_at: datetime | None
    last_failure: str | None


class DestinationDetails(Destination, kw_only=True):
    figures: DestinationFigures


class Delivery(Struct, kw_only=True):
    """
    One signal (or notice) to one destination, with the receipt of its last attempt. ``message_id`` is the `webhook-id` of every attempt.
    An attempt without an answer was begun by a process that died.
    """

    id: UUID
    signal_id: int | None
    trader_id: UUID | None
    destination_id: UUID
    event: Event | Literal["digest", "test"]
    state: State
    attempts: int
    next_attempt_at: datetime | None
    queued_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None
    expires_at: datetime
    status: int | None
    answer: str | None
    message_id: str


class DestinationList(Struct):
    items: list[Destination]
    next_cursor: str | None = None


class DeliveryList(Struct):
    items: list[Delivery]
    next_cursor: str | None = None


class DeliveryQuery(Struct, forbid_unknown_fields=True):
    signal_id: Annotated[int, Meta(ge=1, le=BIGINT_MAX)] | None = None
    destination_id: UUID | None = None
    state: State | None = None
    cursor: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class Redrive(Struct, forbid_unknown_fields=True, kw_only=True):
    """
    Which of your deliveries are sent again, with the same id: those queued in [from, until), of a signal, of a destination. Expired
    ones only when ``states`` names them; at least one of the other fields has to be given.
    """

    signal_id: Annotated[int, Meta(ge=1, le=BIGINT_MAX)] | None = None
    destination_id: UUID | None = None
    since: Instant | None = field(name="from", default=None)
    until: Instant | None = None
    states: Annotated[list[Literal["failed", "expired"]], Meta(min_length=1, max_length=2)] = field(
        default_factory=lambda: ["failed"]
    )


class Redriven(Struct):
    count: int
