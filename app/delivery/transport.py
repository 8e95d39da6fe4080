"""
HTTP to addresses that users chose: resolved once, checked, connected to as resolved; never redirected, never by a proxy.

aiohttp asks the resolver only for names, so an address in the URL is checked before. Between check and connection nothing is resolved
again: a name that changes its address in between changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from app.delivery.rules.addresses import Opening, address_of, refusal
from app.delivery.rules.answers import Answer, clipped
from app.delivery.rules.channels import USER_AGENT, HttpRequest

TIMEOUT_S = 10.0
CONNECT_S = 5.0
ANSWER_BYTES_READ = 4096


class Refused(OSError):
    """The address may not be connected to."""


class CheckedResolver(AbstractResolver):
    """Resolves a name by the system and passes on only addresses that may be connected to."""

    def __init__(self, allowed: Sequence[Opening]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """
        Raises:
            Refused: none of the name's addresses is allowed. OSError: there is no such name.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        reasons: list[str] = []
        for family_found, _, protocol, _, (address, *_) in found:
            reason = check_address(str(address), port, self._allowed)
            if reason is not None:
                reasons.append(reason)
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address),
                    port=port,
                    family=family_found,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if not results:
            raise Refused(reasons[0] if reasons else f"{host} has no address")
        return results

    async def close(self) -> None:
        """Holds nothing."""


class Transport:
    """Sends requests; one per process. Close it when done."""

    def __init__(self, allowed: Sequence[Opening] = (), *, timeout_s: float = TIMEOUT_S) -> None:
        self._allowed = tuple(allowed)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=CheckedResolver(self._allowed),
                use_dns_cache=False,
                limit=0,
                limit_per_host=32,
                keepalive_timeout=15,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S),
            headers={"user-agent": USER_AGENT},
            auto_decompress=False,
            trust_env=False,
        )

    async def send(self, request: HttpRequest) -> Answer:
        """One attempt. Never raises for what the receiver or the network does: that is the answer."""
        began = time.monotonic()
        reason = self._refusal_of_literal(request.url)
        if reason is not None:
            return Answer(status=None, text=f"refused: {reason}", took_s=0.0, is_final=True)
        try:
            async with self._session.post(
                request.url, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                read = await response.content.read(ANSWER_BYTES_READ)
                return _answer(response, read, time.monotonic() - began)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            is_final = _cause(error, Refused) is not None or isinstance(error, aiohttp.InvalidURL)
            return Answer(status=None, text=_why(error), took_s=time.monotonic() - began, is_final=is_final)

    async def close(self) -> None:
        await self._session.close()

    def _refusal_of_literal(self, url: str) -> str | None:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        if address_of(parts.hostname or "") is None:
            return None
        return check_address(parts.hostname or "", port, self._allowed)


def check_address(text: str, port: int, allowed: Sequence[Opening]) -> str | None:
    """Why an address, in the form in which it is connected to, is refused; None when it is allowed."""
    address = address_of(text)
    if address is None:
        return f"{text} is not an address"
    return refusal(address, port, allowed)


def _answer(response: aiohttp.ClientResponse, read: bytes, took_s: float) -> Answer:
    text = read.decode("utf-8", "replace")
    if 300 <= response.status < 400:
        text = f"redirects are not followed: {text}"
    return Answer(
        status=response.status,
        text=clipped(text),
        took_s=took_s,
        retry_after_s=retry_after_s(response.headers, read),
    )


def retry_after_s(headers: object, body: bytes) -> float | None:
    """
    How long the receiver asks to wait: Retry-After (seconds or a date), Discord's bucket when it is used up, Telegram's parameter.
    """
    given = getattr(headers, "get", dict[str, str]().get)
    if (value := given("Retry-After")) is not None:
        return _seconds(value)
    if given("X-RateLimit-Remaining") == "0" and (value := given("X-RateLimit-Reset-After")) is not None:
        return _seconds(value)
    try:
        return float(msgspec.json.decode(body, type=_Throttled).parameters.retry_after)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class _Parameters(msgspec.Struct):
    retry_after: float


class _Throttled(msgspec.Struct):
    parameters: _Parameters


def _seconds(value: str) -> float | None:
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first error of that kind among an error and what led to it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, kind):
        seen = seen.__cause__ or seen.__context__
    return seen


def _why(error: BaseException) -> str:
    """A sentence without the URL, which may hold a token."""
    refused = _cause(error, Refused)
    if refused is not None:
        return clipped(f"refused: {refused}")
    if isinstance(error, aiohttp.ClientConnectorError):  # before the plain texts: its strerror says more
        certificate = isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError
        )
        what = "its certificate is not valid" if certificate else "cannot be connected to"
        return clipped(
            f"{what}: {getattr(error.os_error, 'strerror', None) or type(error.os_error).__name__}"
        )
    return next(
        (text for kind, text in _TEXTS if isinstance(error, kind)), f"no HTTP answer: {type(error).__name__}"
    )


_TEXTS: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "no answer in time"),
    (aiohttp.ServerDisconnectedError, "it closed the connection without an answer"),
    (ConnectionResetError, "it closed the connection without an answer"),
)
