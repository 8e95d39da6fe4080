"""
Who is calling: a Supabase user's JWT, checked here and nowhere else.

Asymmetric tokens by the auth server's published keys, HS256 only with a configured secret (or the
development secret of an installation that configured neither). The algorithm is bound to the key, so a
public key is never taken for a secret. Authorisation reads our own tables, never the token's metadata,
which users can edit or which is stale.
"""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar
from uuid import UUID

import jwt
import msgspec

from app.http.keys import ALGORITHMS, SigningKeys
from app.http.problems import Unauthorized, unknown_user
from app.settings import Settings
from app.store import accounts
from app.store.pool import Pool

CLOCK_SKEW_S = 10.0  # for `nbf` alone: an expired token is expired
KNOWN_USER_S = 5.0  # how long a deleted user may go on reading when the database's word of it is lost
KNOWN_USERS_MAX = 100_000
TOKEN_BYTES_MAX = 8 * 1024  # what proxies take as one header
_UNIX_S_MAX = 253_402_300_799  # the last second of the year 9999

_Part = TypeVar("_Part")
_UnixSeconds = Annotated[float, msgspec.Meta(ge=0, le=_UNIX_S_MAX)]


class _Header(msgspec.Struct):
    """What is read of a token's header before anything is computed from it."""

    alg: str
    kid: str | None = None


class _Claims(msgspec.Struct):
    """Of which type each claim must be; PyJWT judges them, and takes any type."""

    exp: _UnixSeconds
    sub: UUID
    aud: str | list[str]
    iss: str | None = None
    role: str | None = None
    nbf: _UnixSeconds = 0


@dataclass(frozen=True)
class Caller:
    """
    A signed-in user; ``expires_at`` in Unix seconds. ``scopes`` are an API key's; None of a user's own
    session: all.
    """

    user_id: UUID
    expires_at: float
    scopes: frozenset[str] | None = None

    @property
    def is_by_key(self) -> bool:
        return self.scopes is not None

    def may(self, scope: str) -> bool:
        return self.scopes is None or scope in self.scopes


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
        except jwt.ExpiredSignatureError:
            raise _refusal("the token has expired") from None
        except jwt.InvalidTokenError as error:
            raise _refusal(str(error)) from None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise _refusal("it is malformed") from None
        return Caller(claims.sub, claims.exp)

    async def close(self) -> None:
        if self._keys is not None:
            await self._keys.close()

    async def _claims(self, token: str) -> _Claims:
        header, claims = _parts(token)
        algorithm = header.alg
        key: jwt.PyJWK | str
        if algorithm == "HS256" and self._secret is not None:
            key = self._secret
        elif algorithm in ALGORITHMS and self._keys is not None:
            key = await self._keys.find(header.kid)
            if key.algorithm_name != algorithm:
                raise jwt.InvalidAlgorithmError("the key is not of the token's algorithm")
        else:
            raise jwt.InvalidAlgorithmError("tokens of this algorithm are not accepted here")
        jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            options={"require": ["exp", "sub", "aud"], "verify_iat": False, "verify_nbf": False},
        )
        _check_claims(claims)
        return claims


def make_verifier(settings: Settings) -> Verifier:
    """
    By the settings; the development secret only where neither a secret nor keys are configured.

    Raises:
        SettingInvalid: it would be used where it is no secret.
    """
    return Verifier(
        keys=SigningKeys(settings.jwks_url) if settings.jwks_url else None,
        secret=settings.signing_secret(),
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )


class KnownUsers:
    """
    Remembers for ``KNOWN_USER_S`` that a user exists, so that not every request asks. Absence is never
    remembered.
    """

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
            if not await accounts.know_user(connection, user_id):
                self._seen_at.pop(user_id, None)
                raise unknown_user()
        self._seen_at[user_id] = self._clock()
        self._seen_at.move_to_end(user_id)
        if len(self._seen_at) > KNOWN_USERS_MAX:
            self._seen_at.popitem(last=False)

    def forget(self, user_id: UUID | None) -> None:
        """
        The database announced a change of this user, or (None) may have announced any while nobody
        listened.
        """
        if user_id is None:
            self._seen_at.clear()
        else:
            self._seen_at.pop(user_id, None)


def bearer_token(headers: Mapping[str, str]) -> str:
    """
    Raises:
        Unauthorized: there is no ``Authorization: Bearer`` header.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Send the header Authorization: Bearer followed by your access token.")
    return token.strip()


def _parts(token: str) -> tuple[_Header, _Claims]:
    """
    Header and claims, not verified, of the types they must have: a small token and one pass over each part,
    whatever it holds.

    Raises:
        jwt.InvalidTokenError: it is too long, or not of three parts.
        msgspec.MsgspecError, ValueError, RecursionError: a part is not base64 of JSON of these types.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise jwt.InvalidTokenError(f"it has more than {TOKEN_BYTES_MAX // 1024} KiB")
    if token.count(".") != 2 or not token.isascii():
        raise jwt.InvalidTokenError("it is not a JSON web token")
    header, claims, _signature = token.split(".")
    return _decoded(header, _Header), _decoded(claims, _Claims)


def _decoded(part: str, shape: type[_Part]) -> _Part:
    return msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=shape)


def _check_claims(claims: _Claims) -> None:
    if claims.role != "authenticated":
        raise jwt.InvalidTokenError("the token is not a signed-in user's")
    if claims.nbf > time.time() + CLOCK_SKEW_S:
        raise jwt.ImmatureSignatureError("the token is not valid yet")


def _refusal(reason: str) -> Unauthorized:
    # PyJWT's texts may quote the token's own content: only plain printable characters go into a header.
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else " " for c in reason)[:200]
    return Unauthorized(
        f"The token is not accepted: {reason}.",
        challenge=f'error="invalid_token", error_description="{plain}"',
    )
