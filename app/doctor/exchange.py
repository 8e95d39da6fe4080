"""The exchange from here: REST and streams, each asked once; a refusal is named by what its status means."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from app.doctor.findings import Finding, Severity, doubtful, right, wrong
from app.settings import Settings

WITHIN_S = 5.0
_REFUSALS = {
    451: ("refuses this region (451)", "Run the workers elsewhere: see the exchange's list of regions."),
    403: ("refuses this address (403, its firewall)", "Use another egress address."),
    418: ("has banned this address for a while (418)", "Wait; find what else asks from here."),
    429: ("says that this address asks too much (429)", "Wait; find what else asks from here."),
}


async def examine(settings: Settings) -> list[Finding]:
    """Ask for the time and open one stream; a market that is no exchange is not asked."""
    if settings.market not in ("auto", "binance"):
        return [right("exchange", f"not asked: the market is {settings.market}")]
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        found = [
            await _asked(settings.exchange_rest_url, session, "/api/v3/ping"),
            await _streams(settings.exchange_stream_url, session),
        ]
    if settings.market == "auto" and (settings.database_url is None or settings.is_embedded):
        return [_not_needed(one) for one in found]
    return found


def _not_needed(one: Finding) -> Finding:
    """On an embedded database `auto` falls back to the simulated exchange."""
    if one.severity is not Severity.WRONG:
        return one
    return doubtful(one.subject, one.found, f"{one.remedy} Until then the market is simulated.")


async def _asked(base: str, session: aiohttp.ClientSession, path: str) -> Finding:
    host = urlsplit(base).hostname
    try:
        async with session.get(f"{base}{path}") as answer:
            return _judged(f"REST at {host}", answer.status)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _unreachable(f"REST at {host}", error)


async def _streams(base: str, session: aiohttp.ClientSession) -> Finding:
    host = urlsplit(base).hostname
    try:
        async with session.ws_connect(f"{base}/ws/btcusdt@kline_1m"):
            return right("exchange", f"streams at {host} open")
    except aiohttp.WSServerHandshakeError as error:
        return _judged(f"streams at {host}", error.status)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _unreachable(f"streams at {host}", error)


def _judged(what: str, status: int) -> Finding:
    if status == 200:
        return right("exchange", f"{what} answers")
    if status in _REFUSALS:
        said, remedy = _REFUSALS[status]
        return wrong("exchange", f"{what} {said}.", remedy)
    return doubtful("exchange", f"{what} answers {status}.", "Try again; see the exchange's status page.")


def _unreachable(what: str, error: Exception) -> Finding:
    why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return wrong("exchange", f"{what} cannot be reached ({why}).", "Let this machine out to it on port 443.")
