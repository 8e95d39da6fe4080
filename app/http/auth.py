"""
Who is calling: a Supabase user's JWT, checked here and nowhere else.

Asymmetric tokens by the auth server's published keys, HS256 only with a configured secret (or the development secret of an
installation that configured neither). The algorithm is bound to the key, so a public key is never taken for a secret.
Authorisation reads our own tables, never the token's metadata, which users can edit or which is stale.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import jwt

from app.http.keys import ALGORITHMS, SigningKeys
from app.http.problems import Unauthorized, unknown_user
from app.settings import Settings, development_secret
from app.store import accounts
from app.store.pool import Pool

CLOCK_SKEW_S = 10.0  # for `nbf` alone: an expired token is expired
KNOWN_USER_S = 60.0  # how long a deleted user may go on reading; writes fail at once by their foreign key
KNOWN_USERS_MAX = 100_000


@dataclass(frozen=True)
class Caller:
    """A signed-in user; ``expires_at`` in Unix seconds."""

    user_id: UUID
    expires_at: float


class Verifier:
    """
    Checks tokens.

    Args:
        keys: The auth server's keys; None when no address is configured.
        secret: The HS256 secret; None refuses HS256.
        audience: What ``aud`` must hold.
        issuer: What ``iss`` must be; None leaves it unchecked.
    """

    def __init__(
        self, *, keys: SigningKeys | None, secret: str | None, audience: str, issuer: str | None
    ) -> None:
        self._keys = keys
        self._secret = secret
        self._audience = audience
        self._issuer = issuer

    async def verify(self, token: str) -> Caller:
        """
        Raises:
            Unauthorized: the token is not acceptable, with the reason.
            Refused: UNAVAILABLE, the signing keys cannot be had.
        """
        try:
            claims = await self._claims(token)
            user_id = _user_id(claims)
        except jwt.ExpiredSignatureError:
            raise _refusal("the token has expired") from None
        except jwt.InvalidTokenError as error:
            raise _refusal(str(error)) from None
        return Caller(user_id, float(claims["exp"]))

    async def close(self) -> None:
        if self._keys is not None:
            await self._keys.close()

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        key: jwt.PyJWK | str
        if algorithm == "HS256" and self._secret is not None:
            key = self._secret
        elif algorithm in ALGORITHMS and self._keys is not None:
            key = await self._keys.find(header.get("kid"))
            if key.algorithm_name != algorithm:
                raise jwt.InvalidAlgorithmError("the key is not of the token's algorithm")
        else:
            raise jwt.InvalidAlgorithmError("tokens of this algorithm are not accepted here")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[str(algorithm)],
            audience=self._audience,
            issuer=self._issuer,
            options={"require": ["exp", "sub", "aud"], "verify_iat": False, "verify_nbf": False},
        )
        _check_claims(claims)
        return claims


def make_verifier(settings: Settings) -> Verifier:
    """By the settings; the development secret only where neither a secret nor keys are configured."""
    secret = settings.jwt_secret
    if secret is None and settings.jwks_url is None:
        secret = development_secret(settings.data_dir)
    return Verifier(
        keys=SigningKeys(settings.jwks_url) if settings.jwks_url else None,
        secret=secret,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )


class KnownUsers:
    """Remembers for ``KNOWN_USER_S`` that a user exists, so that not every request asks. Absence is never remembered."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._seen_at: OrderedDict[UUID, float] = OrderedDict()

    async def check(self, user_id: UUID) -> None:
        """
        Raises:
            Unauthorized: auth.users has no such row.
        """
        if self._clock() - self._seen_at.get(user_id, float("-inf")) < KNOWN_USER_S:
            return
        async with self._pool.connection() as connection:
            if not await accounts.user_exists(connection, user_id):
                self._seen_at.pop(user_id, None)
                raise unknown_user()
        self._seen_at[user_id] = self._clock()
        self._seen_at.move_to_end(user_id)
        if len(self._seen_at) > KNOWN_USERS_MAX:
            self._seen_at.popitem(last=False)


def bearer_token(headers: Mapping[str, str]) -> str:
    """
    Raises:
        Unauthorized: there is no ``Authorization: Bearer`` header.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Send the header Authorization: Bearer followed by your access token.")
    return token.strip()


def _check_claims(claims: Mapping[str, Any]) -> None:
    if claims.get("role") != "authenticated":
        raise jwt.InvalidTokenError("the token is not a signed-in user's")
    not_before = claims.get("nbf", 0)
    if not isinstance(not_before, int | float) or not_before > time.time() + CLOCK_SKEW_S:
        raise jwt.ImmatureSignatureError("the token is not valid yet")


def _user_id(claims: Mapping[str, Any]) -> UUID:
    try:
        return UUID(str(claims["sub"]))
    except ValueError:
        raise jwt.InvalidTokenError("the token's subject is not a user id") from None


def _refusal(reason: str) -> Unauthorized:
    # PyJWT's texts may quote the token's own content: only plain printable characters go into a header.
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else " " for c in reason)[:200]
    return Unauthorized(
        f"The token is not accepted: {reason}.",
        challenge=f'error="invalid_token", error_description="{plain}"',
    )
