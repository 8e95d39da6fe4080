"""
What a user does to destinations: create, change, rotate a secret, test, delete. Every check of what they give is here.

Secrets go in and are sealed; out come a hint, and once, at the creation of a webhook or a rotation, what its receiver needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from app.delivery.rules import channels, messages, signing
from app.delivery.rules.addresses import Opening, check_url
from app.delivery.rules.channels import Secrets
from app.delivery.rules.presets import PRESETS
from app.delivery.rules.quiet import parse
from app.delivery.rules.templates import TemplateInvalid
from app.delivery.sealing import Sealer, Unopenable
from app.errors import Kind, Refused
from app.store import deliveries
from app.store import destinations as store
from app.store.deliveries import Delivery
from app.store.destinations import Destination, Figures, Rules, Sealed
from app.store.pool import Connection, Pool

DESTINATIONS_MAX = 50
ROTATION_S = 24 * 3600.0  # for so long after a rotation the old secret signs, too
TEST_S = 14.0
TEST_POLL_S = 0.1
LOCAL_SCHEMAS = frozenset(
    {
        # needs the machine itself
        *(
            "dbus",
            "kde",
            "qt",
            "glib",
            "gnome",
            "windows",
            "macosx",
            "syslog",
            "rsyslog",
            "file",
            "vapid",
            "smtp",
        ),
        # has a kind of its own here, or is a webhook without a signature
        *("mailto", "mailtos", "json", "jsons", "xml", "xmls", "form", "forms", "apprise", "apprises"),
    }
)  # of the apprise library
Signature = Literal["hmac", "ed25519"]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A destination as its owner wants it; ``url``, ``headers`` and ``settings`` None: as they are."""

    name: str
    kind: str
    events: Sequence[str]
    trader_ids: Sequence[UUID] | None
    preset: str | None
    template: str | None
    quiet_hours: dict[str, str] | None
    digest: dict[str, Any] | None
    rate: dict[str, Any] | None
    expires_after_s: int | None
    url: str | None = None
    headers: Mapping[str, str] | None = None
    settings: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """A destination, and what only this answer says: the secret of its signatures, or the public key."""

    destination: Destination
    secret: str | None = None
    public_key: str | None = None


@dataclass(kw_only=True)
class Destinations:
    """
    Args:
        sealer: None: there is no VYX_SECRET_KEY, and destinations cannot be created.
        allowed: Private ranges that webhooks may reach.
    """

    pool: Pool
    sealer: Sealer | None
    allowed: Sequence[Opening]
    public_url: str
    test_s: float = field(default=TEST_S)

    async def create(self, user_id: UUID, draft: Draft, *, signature: Signature = "hmac") -> Made:
        """
        Raises:
            Refused: REQUEST_INVALID with what is wrong; QUOTA_EXCEEDED; UNAVAILABLE without a key.
        """
        sealer = self._need_sealer()
        keys = _new_keys(draft.kind, signature)
        preset = PRESETS.get(draft.preset or "")
        secrets = Secrets(
            url=draft.url or (preset.url if preset else None),
            headers=dict(draft.headers or {}),
            settings=dict(draft.settings or {}),
            keys=keys,
        )
        rules = self._checked(draft, secrets)
        destination_id = uuid4()
        sealed = self._sealed(sealer, destination_id, secrets)
        async with self.pool.connection() as connection, connection.transaction():
            await self._check_owner(connection, user_id, draft)
            key = channels.service_key(draft.kind, secrets)
            await store.insert(connection, rules, sealed, user_id=user_id, kind=draft.kind, service_key=key)
            made = await self._found(connection, destination_id)
        return _made(made, keys)

    async def list_own(
        self, user_id: UUID, *, before: tuple[datetime, UUID] | None, limit: int
    ) -> list[Destination]:
        """Newest first."""
        async with self.pool.connection() as connection:
            return await store.list_destinations(connection, user_id, before=before, limit=limit)

    async def find_own(self, user_id: UUID, destination_id: UUID) -> Destination:
        """
        Raises:
            Refused: NOT_FOUND, FORBIDDEN.
        """
        async with self.pool.connection() as connection:
            return await self._own(connection, user_id, destination_id)

    async def figures(self, user_id: UUID, destination_id: UUID) -> tuple[Destination, Figures]:
        """
        Raises:
            Refused: NOT_FOUND, FORBIDDEN.
        """
        async with self.pool.connection() as connection:
            found = await self._own(connection, user_id, destination_id)
            return found, await store.figures(connection, destination_id)

    async def change(
        self,
        user_id: UUID,
        destination_id: UUID,
        changes: Mapping[str, Any],
        *,
        enabled: bool | None,
        rotate: bool,
    ) -> Made:
        """
        Replace the fields in *changes* (names of ``Draft``); *rotate* makes a new secret, beside which the old one signs for a day.

        Raises:
            Refused: as ``create``; NOT_FOUND, FORBIDDEN.
        """
        sealer = self._need_sealer()
        async with self.pool.connection() as connection, connection.transaction():
            found = await self._own(connection, user_id, destination_id)
            sealed = await store.find_secrets(connection, destination_id)
            assert sealed is not None  # noqa: S101 written with the destination
            draft = replace(_draft_of(found), **changes)
            secrets = _changed(_opened(sealer, sealed), draft)
            keys: Sequence[str] = ()
            if rotate:
                secrets, keys = _rotated(found.kind, secrets)
            rules = self._checked(draft, secrets)
            await self._check_traders(connection, user_id, draft.trader_ids)
            await store.change(
                connection, destination_id, rules, enabled=found.enabled if enabled is None else enabled
            )
            await store.change_secrets(connection, self._sealed(sealer, destination_id, secrets))
            await store.set_service_key(connection, destination_id, channels.service_key(found.kind, secrets))
            made = await self._found(connection, destination_id)
        return _made(made, keys)

    async def delete(self, user_id: UUID, destination_id: UUID) -> None:
        """
        Raises:
            Refused: NOT_FOUND, FORBIDDEN.
        """
        async with self.pool.connection() as connection, connection.transaction():
            await self._own(connection, user_id, destination_id)
            await store.delete(connection, destination_id)

    async def test(self, user_id: UUID, destination_id: UUID) -> Delivery:
        """
        Send a test message and wait for the destination's own answer, or (state `pending`) for as long as an attempt may take.

        Raises:
            Refused: NOT_FOUND, FORBIDDEN.
        """
        async with self.pool.connection() as connection:
            await self._own(connection, user_id, destination_id)
            source_id = await deliveries.queue_test(connection, destination_id)
        deadline = time.monotonic() + self.test_s
        while True:
            async with self.pool.connection() as connection:
                found = await deliveries.find(connection, source_id, destination_id)
            if found is None:
                raise _not_found()
            if found.state != "pending" or time.monotonic() > deadline:
                return found
            await asyncio.sleep(TEST_POLL_S)

    # -- checks ------------------------------------------------------------------------------------------------------------

    def _need_sealer(self) -> Sealer:
        if self.sealer is None:
            raise Refused(
                Kind.UNAVAILABLE, "Destinations cannot be stored: this service has no VYX_SECRET_KEY."
            )
        return self.sealer

    def _checked(self, draft: Draft, secrets: Secrets) -> Rules:
        try:
            _check_rules(draft)
            _check_secrets(draft, secrets, self.allowed)
            template = PRESETS[draft.preset].template if draft.preset else draft.template
            if template is not None:
                sample = messages.of_signal(
                    "msg_0", messages.sample_signal(datetime.now(UTC)), self.public_url
                )
                channels.check_template(draft.kind, template, sample, secrets)
        except (TemplateInvalid, ValueError) as error:
            raise Refused(Kind.REQUEST_INVALID, str(error)) from None
        return Rules(
            name=draft.name,
            hint=channels.hint_of(draft.kind, secrets)[:200],
            events=list(draft.events),
            trader_ids=None if draft.trader_ids is None else list(draft.trader_ids),
            preset=draft.preset,
            template=draft.template,
            quiet_hours=draft.quiet_hours,
            digest=draft.digest,
            rate=draft.rate,
            expires_after_s=draft.expires_after_s,
        )

    async def _check_owner(self, connection: Connection, user_id: UUID, draft: Draft) -> None:
        used = await store.count(connection, user_id)
        if used >= DESTINATIONS_MAX:
            raise Refused(
                Kind.QUOTA_EXCEEDED,
                f"A user has at most {DESTINATIONS_MAX} destinations; delete one first.",
                limit=DESTINATIONS_MAX,
                used=used,
                quota="destinations",
            )
        await self._check_traders(connection, user_id, draft.trader_ids)

    async def _check_traders(self, connection: Connection, user_id: UUID, ids: Sequence[UUID] | None) -> None:
        if ids is None:
            return
        strangers = set(ids) - await store.own_traders(connection, user_id, ids)
        if strangers:
            raise Refused(
                Kind.REQUEST_INVALID, f"trader_ids: {min(map(str, strangers))} is not one of your traders."
            )

    def _sealed(self, sealer: Sealer, destination_id: UUID, secrets: Secrets) -> Sealed:
        return Sealed(
            destination_id=destination_id, key_id=sealer.key_id, sealed=sealer.seal(destination_id, secrets)
        )

    async def _own(self, connection: Connection, user_id: UUID, destination_id: UUID) -> Destination:
        found = await store.find(connection, destination_id)
        if found is None:
            raise _not_found()
        if found.user_id != user_id:
            raise Refused(Kind.FORBIDDEN, "This destination belongs to someone else.")
        return found

    async def _found(self, connection: Connection, destination_id: UUID) -> Destination:
        found = await store.find(connection, destination_id)
        assert found is not None  # noqa: S101 written in this transaction
        return found


def _not_found() -> Refused:
    return Refused(Kind.NOT_FOUND, "There is no such destination.")


def _opened(sealer: Sealer, sealed: Sealed) -> Secrets:
    try:
        return sealer.open(sealed.destination_id, sealed.key_id, sealed.sealed)
    except Unopenable as error:
        raise Refused(Kind.UNAVAILABLE, f"The destination's secrets cannot be opened: {error}.") from None


def _check_secrets(draft: Draft, secrets: Secrets, allowed: Sequence[Opening]) -> None:
    """
    Raises:
        ValueError: one sentence for the owner.
    """
    kind = draft.kind
    if secrets.url is None and kind in channels.NEEDS_URL:
        raise ValueError(f"A {kind} destination needs a url.")
    if secrets.url is not None:
        _check_address(kind, secrets.url, allowed)
    if secrets.headers and kind != "webhook":
        raise ValueError("headers: only a webhook sends headers of its own.")
    channels.check_headers(secrets.headers)
    preset = PRESETS.get(draft.preset or "")
    required = (*channels.REQUIRED_SETTINGS.get(kind, ()), *(preset.settings if preset else ()))
    known = (*required, *channels.OPTIONAL_SETTINGS.get(kind, ()))
    for name in required:
        if not secrets.settings.get(name):
            raise ValueError(f"settings: {name} is missing; needed are {', '.join(required)}.")
    for name, value in secrets.settings.items():
        if name not in known:
            raise ValueError(f"settings: {name} is not one of {', '.join(known) or 'none'}.")
        if len(value) > 500 or not value.isprintable():
            raise ValueError(f"settings: {name} must be at most 500 printable characters.")
    if kind == "telegram" and not all(c.isalnum() or c in ":_-" for c in secrets.settings["bot_token"]):
        raise ValueError("settings: bot_token looks like 123456:ABC-DEF; BotFather gives it.")


def _check_address(kind: str, url: str, allowed: Sequence[Opening]) -> None:
    if kind == "email":
        raise ValueError("An email destination has no url; it is made of settings.")
    if kind != "apprise":
        check_url(url, allowed)
        return
    scheme = urlsplit(url).scheme.lower()
    if not scheme or "://" not in url or len(url) > 2000 or not url.isprintable():
        raise ValueError(
            "The url must be one of the apprise library, such as matrixs://user:password@host/#room."
        )
    if scheme in LOCAL_SCHEMAS:
        raise ValueError(f"{scheme}:// cannot be used here; see docs/delivery.md for what to use instead.")


def _check_rules(draft: Draft) -> None:
    """
    Raises:
        ValueError: one sentence for the owner.
    """
    if draft.preset is not None:
        preset = PRESETS.get(draft.preset)
        if preset is None:
            raise ValueError(f"preset: there are {', '.join(sorted(PRESETS))}.")
        if preset.kind != draft.kind:
            raise ValueError(f"preset: {draft.preset} is for a {preset.kind} destination.")
        if draft.template is not None:
            raise ValueError("Give a preset or a template, not both.")
    if len(set(draft.events)) != len(draft.events):
        raise ValueError("events: one is named twice.")
    if draft.quiet_hours is not None:
        parse(draft.quiet_hours)
    if draft.digest is not None and len(draft.digest) != 1:
        raise ValueError("digest: give every_s or per, one of them.")
    if draft.preset is not None and draft.digest is not None:
        raise ValueError("A bot takes one signal at a time: a preset cannot be gathered into a digest.")


def _new_keys(kind: str, signature: Signature) -> tuple[str, ...]:
    if kind != "webhook":
        return ()
    return (signing.new_secret() if signature == "hmac" else signing.new_private_key(),)


def _rotated(kind: str, secrets: Secrets) -> tuple[Secrets, Sequence[str]]:
    if kind != "webhook":
        raise Refused(Kind.REQUEST_INVALID, "Only webhooks are signed; there is no secret to rotate.")
    is_hmac = secrets.keys[0].startswith(signing.SECRET_PREFIX)
    keys = _new_keys(kind, "hmac" if is_hmac else "ed25519")
    until = datetime.now(UTC) + timedelta(seconds=ROTATION_S)
    return replace(secrets, keys=[*keys, secrets.keys[0]], previous_until=until), keys


def _changed(secrets: Secrets, draft: Draft) -> Secrets:
    return replace(
        secrets,
        url=draft.url if draft.url is not None else secrets.url,
        headers=draft.headers if draft.headers is not None else secrets.headers,
        settings=draft.settings if draft.settings is not None else secrets.settings,
    )


def _draft_of(found: Destination) -> Draft:
    names = (
        "name",
        "kind",
        "events",
        "trader_ids",
        "preset",
        "template",
        "quiet_hours",
        "digest",
        "rate",
        "expires_after_s",
    )
    return Draft(**{name: getattr(found, name) for name in names})


def _made(destination: Destination, keys: Sequence[str]) -> Made:
    if not keys:
        return Made(destination=destination)
    if keys[0].startswith(signing.PRIVATE_PREFIX):
        return Made(destination=destination, public_key=signing.public_key(keys[0]))
    return Made(destination=destination, secret=keys[0])
