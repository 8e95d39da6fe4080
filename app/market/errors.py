"""
What can go wrong between Vyx and market data, named by whose fault it is.

Every message is one sentence a person can act on. ``fault`` is ``"ours"`` (we asked wrongly: never retry),
``"theirs"`` (the exchange or the way to it: may pass) or ``"limits"`` (we were told to wait: obey, never just retry).
"""

from typing import ClassVar, Literal

from app.domain import timeframes

Fault = Literal["ours", "theirs", "limits"]


class MarketError(Exception):
    """Root of everything this package raises on purpose."""


class CandleInvalid(MarketError, ValueError):
    """
    A candle breaks a rule that every candle keeps.

    Attributes:
        symbol, timeframe: Whose bar.
        open_time: Of the bar, in milliseconds since the epoch.
        reason: What is wrong, with the values.
        row: Index of the row in its batch.
    """

    def __init__(self, *, symbol: str, timeframe: str, open_time: int, reason: str, row: int) -> None:
        self.symbol = symbol
        self.timeframe = timeframe
        self.open_time = open_time
        self.reason = reason
        self.row = row
        super().__init__(f"The {timeframe} candle of {symbol} at {_when(open_time)} is invalid: {reason}.")


class DumpInvalid(MarketError, ValueError):
    """A file of candles cannot be used; the message names the file, the line where there is one, and what to do."""


class ExchangeError(MarketError):
    """Asking the exchange did not yield an answer we can use."""

    fault: ClassVar[Fault] = "theirs"


class RequestInvalid(ExchangeError):
    """The exchange refused the request as wrong (400, 404 ...): ours, never retried."""

    fault = "ours"

    def __init__(self, message: str, *, status: int, code: int | None) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class RateLimited(ExchangeError):
    """429: the weight of this minute is spent. All REST waits *retry_after_s*."""

    fault = "limits"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Banned(RateLimited):
    """418: this address is banned for *retry_after_s* (2 minutes to 3 days)."""


class Blocked(RateLimited):
    """403 with an HTML page: the exchange's firewall. It names no time, so *retry_after_s* is ours."""


class RegionRefused(ExchangeError):
    """451: the exchange does not serve the place this machine stands in. Waiting does not help."""

    fault = "ours"


class ExchangeUnavailable(ExchangeError):
    """No connection, no answer in time, or a 5xx: theirs, worth a short retry."""


class AnswerInvalid(ExchangeError):
    """The exchange answered 200 with something that is not what its documentation says."""


class BreakerOpen(ExchangeError):
    """Not asked at all: the breaker is open for another *retry_after_s* seconds, because of *reason*."""

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(f"The exchange is not asked for another {retry_after_s:.1f} s, because {reason}.")


def _when(open_time: int) -> str:
    try:
        return timeframes.instant(open_time).strftime("%Y-%m-%dT%H:%M:%S.%fZ").replace(".000000Z", "Z")
    except (OverflowError, ValueError):
        return f"{open_time} ms after the epoch"
