"""
Who is calling with an API key.

``vyx_``, then 40 characters of 240 random bits, 8 of a checksum: garbage is refused without asking the
database. What is stored is a hash, so a key is shown in the answer that makes it and never again.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from app.http.auth import Caller
from app.http.problems import Unauthorized
from app.store import api_keys
from app.store.pool import Pool

KEY_PREFIX = "vyx_"  # a JWT begins with eyJ
KNOWN_S = 5.0  # how long a revoked key may go on reading when the database's word of it is lost
KNOWN_MAX = 100_000
_KEY = re.compile(rf"{KEY_PREFIX}([A-Za-z0-9_-]{{40}})([0-9a-f]{{8}})\Z")
_IMPLIED = {"read": {"read"}, "trade": {"read", "trade"}, "admin": {"read", "trade", "admin"}}


def make_key() -> str:
    """A new key."""
    random = secrets.token_urlsafe(30)
    return f"{KEY_PREFIX}{random}{_checksum(random)}"


def hash_of(key: str) -> bytes:
    """What is stored of it."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(random: str) -> str:
    return f"{zlib.crc32(random.encode()):08x}"


class Keys:
    """Says whose a key is. *clock* is monotonic, in seconds."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    async def verify(self, key: str) -> Caller:
        """
        Raises:
            Unauthorized: there is no such key, it has expired, or it was revoked.
        """
        match = _KEY.match(key)
        if match is None or _checksum(match[1]) != match[2]:
            raise _unknown()
        secret_hash = hash_of(key)
        seen_at, caller = self._known.get(secret_hash, (-math.inf, None))
        if caller is None or self._clock() - seen_at >= KNOWN_S:
            caller = await self._find(secret_hash)
        if caller.expires_at <= time.time():
            raise _unknown()
        return caller

    def forget(self, user_id: UUID | None) -> None:
        """
        The database announced a change of this user's keys, or (None) may have announced any while nobody
        listened.
        """
        if user_id is None:
            self._known.clear()
            return
        for one in [h for h, (_, caller) in self._known.items() if caller.user_id == user_id]:
            del self._known[one]

    async def _find(self, secret_hash: bytes) -> Caller:
        async with self._pool.connection() as connection:
            found = await api_keys.use_key(connection, secret_hash)
        if found is None:
            self._known.pop(secret_hash, None)
            raise _unknown()
        caller = Caller(
            found.user_id,
            math.inf if found.expires_at is None else found.expires_at.timestamp(),
            frozenset().union(*(_IMPLIED[scope] for scope in found.scopes)),
        )
        self._known[secret_hash] = (self._clock(), caller)
        self._known.move_to_end(secret_hash)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return caller


def _unknown() -> Unauthorized:
    return Unauthorized(
        "The API key is not known here, has expired or was revoked.", challenge='error="invalid_token"'
    )
