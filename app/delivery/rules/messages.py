"""
What a message says: data for machines (the JSON body of a webhook) and title and text for people.

A message is made of rows alone, so every attempt of a delivery says the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec

BODY_BYTES_MAX = 20_000  # Standard Webhooks: below 20 KB
LISTED_MAX = 50
QUOTES = ("USDT", "USDC", "FDUSD", "TUSD", "BUSD", "DAI", "EUR", "TRY", "BRL", "BTC", "ETH", "BNB")
TYPES = {
    "signal": "signal",
    "digest": "digest",
    "test": "test",
    "outage": "outage",
    "destination_disabled": "destination",
}  # error, recovered, lagging and quota are news of a trader


@dataclass(frozen=True, kw_only=True)
class Message:
    """
    One message. ``signals``: the data of each signal it is about, oldest first; ``text`` excludes ``title``.
    """

    id: str
    event: str
    timestamp: datetime
    title: str
    text: str
    url: str | None
    data: Mapping[str, Any]
    signals: Sequence[Mapping[str, Any]] = ()

    @property
    def type(self) -> str:
        return TYPES.get(self.event, "trader")

    def body(self) -> bytes:
        """The JSON body of a webhook, below ``BODY_BYTES_MAX``."""
        return _fitting({"type": self.type, "timestamp": self.timestamp, "data": dict(self.data)})


@dataclass(frozen=True, kw_only=True)
class SignalRow:
    """A signal and the name of its trader, as the tables hold them."""

    id: int
    trader_id: UUID
    trader_name: str
    symbol: str
    timeframe: str
    triggered_at: datetime
    price: float
    shown: Mapping[str, Any]
    screened_at: datetime
    created_at: datetime
    late: bool
    forming: bool


def message_id(source_id: int, destination_id: UUID) -> str:
    """The identity of a delivery, the same in every attempt."""
    return f"msg_{source_id}_{destination_id}" if source_id >= 0 else f"msg_n{-source_id}_{destination_id}"


def signal_url(public_url: str, trader_id: UUID, symbol: str, at: datetime) -> str:
    """The console's page of a signal: its chart and why it fired."""
    instant = quote(at.isoformat().replace("+00:00", "Z"), safe="")
    return (
        f"{public_url.rstrip('/')}/#/traders/{trader_id}/explain?symbol={quote(symbol, safe='')}&at={instant}"
    )


def pair_of(symbol: str) -> tuple[str, str]:
    """Base and quote of a symbol: BTCUSDT is BTC and USDT; the quote is empty where none is known."""
    for quote_asset in QUOTES:
        if symbol.endswith(quote_asset) and len(symbol) > len(quote_asset):
            return symbol.removesuffix(quote_asset), quote_asset
    return symbol, ""


def signal_data(row: SignalRow, public_url: str) -> dict[str, Any]:
    """A signal as the API gives it, with its trader's name and a link."""
    return {
        "id": row.id,
        "trader_id": row.trader_id,
        "trader_name": row.trader_name,
        "symbol": row.symbol,
        "timeframe": row.timeframe,
        "triggered_at": row.triggered_at,
        "price": row.price,
        "values": dict(row.shown),
        "screened_at": row.screened_at,
        "created_at": row.created_at,
        "late": row.late,
        "forming": row.forming,
        "url": signal_url(public_url, row.trader_id, row.symbol, row.triggered_at),
    }


def of_signal(message: str, row: SignalRow, public_url: str) -> Message:
    """The message of one signal."""
    data = signal_data(row, public_url)
    return Message(
        id=message,
        event="signal",
        timestamp=row.triggered_at,
        title=f"{row.symbol} · {row.trader_name}",
        text=_signal_text(data),
        url=data["url"],
        data=data,
        signals=[data],
    )


def as_test(sample: Message) -> Message:
    """A message that says what it is: nobody may take it for a signal."""
    return replace(
        sample,
        event="test",
        title="Test of Vyx",
        text="This destination works: signals will arrive here.",
        data={**sample.data, "test": True},
    )


def of_digest(
    message: str, rows: Sequence[SignalRow], late: Sequence[SignalRow], at: datetime, public_url: str
) -> Message:
    """The message of many signals, and of those that expired before they could be sent."""
    signals = [signal_data(row, public_url) for row in rows]
    expired = [signal_data(row, public_url) for row in late]
    parts = [_line(data) for data in signals[:LISTED_MAX]]
    if len(signals) > LISTED_MAX:
        parts.append(f"and {len(signals) - LISTED_MAX} more")
    if expired:
        parts.append(f"Not sent in time ({len(expired)}):")
        parts += [_line(data) for data in expired[:LISTED_MAX]]
    return Message(
        id=message,
        event="digest",
        timestamp=at,
        title=f"{len(signals)} signals" if signals else f"{len(expired)} signals were not sent in time",
        text="\n".join(parts),
        url=None,
        data={
            "count": len(signals),
            "signals": signals[:LISTED_MAX],
            "expired_count": len(expired),
            "expired": expired[:LISTED_MAX],
        },
        signals=signals[:LISTED_MAX],
    )


def of_notice(message: str, event: str, notice: Mapping[str, Any], at: datetime, public_url: str) -> Message:
    """The message of anything that is not a signal; *notice* is what the outbox holds of it."""
    title, text = _notice_text(event, notice)
    return Message(
        id=message,
        event=event,
        timestamp=at,
        title=title,
        text=text,
        url=public_url,
        data={"event": event, **notice},
    )


def sample_signal(now: datetime) -> SignalRow:
    """A signal that never was, for tests of templates and destinations."""
    return SignalRow(
        id=0,
        trader_id=UUID(int=0),
        trader_name="Test of Vyx",
        symbol="BTCUSDT",
        timeframe="15m",
        triggered_at=now.replace(second=0, microsecond=0),
        price=64250.1,
        shown=SampleValues({"rsi": 28.4}),
        screened_at=now,
        created_at=now,
        late=False,
        forming=False,
    )


class SampleValues(dict[str, float]):
    """Values of a sample: every name has one, since nobody knows what a filter will show."""

    def __missing__(self, name: str) -> float:
        return 1.5


def _signal_text(data: Mapping[str, Any]) -> str:
    lines = [f"{_number(data['price'])} at the close of {_when(data['triggered_at'])} ({data['timeframe']})"]
    lines += [f"{name} {_number(value)}" for name, value in list(data["values"].items())[:20]]
    if data["late"]:
        lines.append("late: screened more than a minute after the close")
    return "\n".join(lines)


def _line(data: Mapping[str, Any]) -> str:
    return (
        f"{data['symbol']} {_number(data['price'])} · {data['trader_name']} · {_when(data['triggered_at'])}"
    )


def _notice_text(event: str, notice: Mapping[str, Any]) -> tuple[str, str]:
    name, reason = notice.get("trader_name", "A trader"), notice.get("reason") or "no reason given"
    if event == "recovered" and "what" in notice:
        over = {"outage": "Market data is back", "lagging": "No trader lags behind the market any more"}
        return over[notice["what"]], "Every slot meanwhile is made up for, or shown as a gap."
    texts = {
        "error": (
            f"{name} has failed",
            f"It screens nothing until it is started again or recovers: {reason}",
        ),
        "recovered": (f"{name} runs again", "It recovered from its error and screens every slot."),
        "lagging": (f"{notice.get('count', 1)} traders lag behind the market", reason),
        "quota": (f"{name} was stopped", f"The tier does not allow it any more: {reason}"),
        "flooding": (
            f"{name} has its signals of the day",
            f"It is screened as before; {reason.removeprefix('flooding: ')}.",
        ),
        "outage": ("No market data", f"Nothing is screened meanwhile; no trader is at fault: {reason}"),
        "destination_disabled": (f"{notice.get('destination_name', 'A destination')} was disabled", reason),
    }
    return texts["flooding" if event == "quota" and reason.startswith("flooding:") else event]


def _number(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "n/a"}[value]
    return f"{value:.10g}" if isinstance(value, float | int) else str(value)


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _fitting(document: dict[str, Any]) -> bytes:
    """The document as JSON; lists are halved, then values left out, until it is small enough."""
    body = msgspec.json.encode(document)
    data = document["data"]
    while len(body) >= BODY_BYTES_MAX:
        longest = max(("signals", "expired"), key=lambda name: len(data.get(name, ())))
        if data.get(longest):
            data[longest] = data[longest][: len(data[longest]) // 2]
        elif data.get("values"):
            data["values"] = {}
        else:
            raise ValueError("a message without lists and values has at most 20 KB")
        data["truncated"] = True
        body = msgspec.json.encode(document)
    return body
