"""
The signing keys of the auth server, held by one event loop.

A known key is never fetched on the request path: keys older than ``FRESH_S`` are refreshed in the background,
and kept for ``STALE_S`` through an outage of the auth server. When no key is to be had the answer is 503, not
401: the client's token may be fine. PyJWT's own client blocks on urllib under a lock and logs everyone out
once its cache has lapsed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import jwt
import msgspec
import structlog

from app.errors import Kind, Refused

FRESH_S = 300.0  # Supabase's edge caches the document for 10 min; a new key is published before it signs
STALE_S = 3600.0  # how long an outage of the auth server may last before nobody can sign in here
COOLDOWN_S = 15.0  # between fetches for key ids nobody knows, so that garbage tokens cost one fetch
FETCH_TIMEOUT_S = 5.0
DOCUMENT_BYTES_MAX = 1 << 20
ALGORITHMS = frozenset({"ES256", "RS256"})

log = structlog.get_logger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]


async def fetch(url: str) -> bytes:
    """
    The document at *url*, at most ``DOCUMENT_BYTES_MAX``.

    Raises:
        aiohttp.ClientError, TimeoutError: it cannot be had.
    """
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, headers={"Accept": "application/json"}) as response,
    ):
        response.raise_for_status()
        return await response.content.read(DOCUMENT_BYTES_MAX)


class SigningKeys:
    """Finds a public key by its id. *clock* is monotonic, in seconds."""

    def __init__(
        self, url: str, *, fetch: Fetch = fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """
        The key of that id.

        Raises:
            jwt.InvalidTokenError: the auth server has no such key.
            Refused: UNAVAILABLE, no keys are known and the auth server does not answer.
        """
        asked_at = self._clock()
        age = asked_at - self._fetched_at
        key = self._keys.get(key_id or "")
        if key is not None and age < STALE_S:
            if age > FRESH_S and asked_at - self._tried_at > COOLDOWN_S:
                self._refresh_in_background()
            return key
        if age >= STALE_S or asked_at - self._tried_at > COOLDOWN_S:
            await self._refresh()
        if self._clock() - self._fetched_at >= STALE_S:
            raise Refused(
                Kind.UNAVAILABLE,
                "Tokens cannot be checked: the auth server's signing keys cannot be fetched.",
                retry_after_s=COOLDOWN_S,
            )
        if key := self._keys.get(key_id or ""):
            return key
        raise jwt.InvalidTokenError("unknown signing key")

    async def close(self) -> None:
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)

    def _refresh_in_background(self) -> None:
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        async with self._one_at_a_time:
            # One ended while the caller waited, or a failed one is too recent to repeat: its outcome stands.
            if self._clock() - self._tried_at <= COOLDOWN_S:
                return
            try:
                document = await self._fetch(self._url)
                self._keys = _usable(document)
                self._fetched_at = self._clock()
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
                log.warning("signing keys not refreshed", error=str(error) or type(error).__name__)
            finally:
                self._tried_at = self._clock()


def _usable(document: bytes) -> dict[str, jwt.PyJWK]:
    """
    Keys by id, of the algorithms we take. An empty set is the answer of a project that still signs with a
    secret.
    """
    entries = msgspec.json.decode(document, type=dict[str, list[dict[str, object]]]).get("keys", [])
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        try:
            key = jwt.PyJWK.from_dict(entry)
        except (
            jwt.PyJWTError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:  # a kind of key this version does not know is no reason to lose the others
            log.info("signing key not usable", kid=entry.get("kid"), error=str(error))
            continue
        if key.key_id and key.public_key_use in ("sig", None) and key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    return keys
