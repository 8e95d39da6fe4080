"""
``Idempotency-Key``: a POST sent again with the same key is answered as it was the first time, for 24 hours,
and nothing is done twice.

What is kept is the answer of a request that was carried out or refused for good. A refusal that trying
again may lift (rate, database, time) is not: the same key then tries anew. A process that dies in between
leaves a claim, which the next try takes over after a minute: what the dead one did by then is done twice,
as without a key. While the first try is being answered, the second waits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.errors import Kind, Refused
from app.store import idempotent_answers as store
from app.store.pool import Pool

HEADER = "idempotency-key"
KEY_LENGTH_MAX = 200
ANSWER_BYTES_MAX = (
    128 * 1024
)  # a longer one, of a preview, is not kept: it changes nothing to work it out again
WAIT_S_MAX = 10.0
WAIT_POLL_S = (0.02, 0.5)  # first, and longest
_KEPT_HEADERS = frozenset({"content-type", "location", "preference-applied"})
_TRANSIENT = frozenset({401, 408, 429, 499})


async def once(
    pool: Pool,
    user_id: UUID,
    request: Request,
    body: bytes,
    perform: Callable[[], Awaitable[Response]],
    *,
    is_kept: bool,
) -> Response:
    """
    The answer of *perform*, or of the request that had this key first.

    *body* is as it was sent: part of what must be the same. *perform* is called at most once; refusals come
    back as responses. *is_kept* is False of answers with a secret in them, shown once: a second try is
    refused.

    Raises:
        Refused: REQUEST_INVALID, the key is malformed or belongs to another request; UNAVAILABLE, the first
        try is not answered yet.
    """
    key = _key(request)
    if key is None:
        return await perform()
    fingerprint = hashlib.sha256(
        b"\n".join(
            (request.method.encode(), str(request.url.path).encode(), request.url.query.encode(), body)
        )
    ).digest()
    claim = await _claim(pool, user_id, key, fingerprint)
    if claim.claim is None:
        return _replayed(claim)
    response = await _performed(pool, user_id, key, claim.claim, perform)
    if (
        response.status_code >= 500
        or response.status_code in _TRANSIENT
        or len(response.body) > ANSWER_BYTES_MAX
    ):
        async with pool.connection() as connection:
            await store.give_up(connection, user_id, key, claim.claim)
        return response
    headers = {name: value for name, value in response.headers.items() if name in _KEPT_HEADERS}
    kept = bytes(response.body) if is_kept or response.status_code >= 400 else b""
    async with pool.connection() as connection:
        await store.put_answer(connection, user_id, key, claim.claim, response.status_code, headers, kept)
    return response


def _key(request: Request) -> str | None:
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    key = given[0].strip().strip('"')
    if len(given) > 1 or not 1 <= len(key) <= KEY_LENGTH_MAX or not (key.isascii() and key.isprintable()):
        raise Refused(
            Kind.REQUEST_INVALID,
            f"Idempotency-Key is one value of 1 to {KEY_LENGTH_MAX} printable characters, such as a UUID.",
        )
    return key


async def _claim(pool: Pool, user_id: UUID, key: str, fingerprint: bytes) -> store.Claim:
    """The claim to answer, or the answer; waits for the end of a try that is being answered."""
    pause_s, longest_s = WAIT_POLL_S
    deadline = asyncio.get_running_loop().time() + WAIT_S_MAX
    while True:
        async with pool.connection() as connection:
            claim = await store.claim(connection, user_id, key, fingerprint)
        if claim.claim is not None or claim.status is not None or claim.same_request is False:
            break
        if asyncio.get_running_loop().time() > deadline:
            raise Refused(
                Kind.UNAVAILABLE,
                "The first request with this Idempotency-Key is still being answered; try again.",
            )
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, longest_s)
    if claim.same_request is False:
        raise Refused(
            Kind.REQUEST_INVALID,
            "This Idempotency-Key was sent with another request within 24 hours; a new request needs a new key.",
        )
    return claim


async def _performed(
    pool: Pool, user_id: UUID, key: str, claim: UUID, perform: Callable[[], Awaitable[Response]]
) -> Response:
    try:
        return await perform()
    except BaseException:  # cancelled, or out of time: whoever asks again must not wait for it
        async with pool.connection() as connection:
            await store.give_up(connection, user_id, key, claim)
        raise


def _replayed(claim: store.Claim) -> Response:
    assert claim.status is not None  # noqa: S101 waited for
    if not claim.body and claim.status != 204:
        raise Refused(
            Kind.REQUEST_INVALID,
            "This Idempotency-Key was answered already, with a secret that is shown only once; a new request needs a new key.",
        )
    headers = {**(claim.headers or {}), "idempotency-replayed": "true"}
    return Response(claim.body, claim.status, headers)
