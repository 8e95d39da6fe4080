"""
The universe: which of the exchange's symbols are screened.

Decided here: every pair quoted in USDT that trades on the spot market, stablecoins and currencies included: a trader names the symbols
it wants. What is left out is listed with its reason, so a user who misses a symbol can be told why.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

QUOTE: Final = "USDT"


class SymbolInfo(msgspec.Struct, frozen=True, rename="camel"):
    """What ``exchangeInfo`` says of a symbol, as far as it matters here."""

    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    is_spot_trading_allowed: bool = True
    permissions: tuple[str, ...] = ()


class ExchangeInfo(msgspec.Struct, frozen=True, rename="camel"):
    """``exchangeInfo``: every symbol the exchange knows, and its clock in milliseconds."""

    server_time: int
    symbols: tuple[SymbolInfo, ...]


@dataclass(frozen=True)
class Universe:
    """
    Attributes:
        symbols: To screen, greatest 24 h quote volume first where volumes were given, else in the exchange's order.
        skipped: Every other symbol quoted in USDT, with the reason in a few words.
    """

    symbols: tuple[str, ...]
    skipped: Mapping[str, str]


def universe(
    info: ExchangeInfo,
    quote_volumes: Mapping[str, float] | None = None,
    *,
    symbols_max: int = 600,
    min_quote_volume: float = 0.0,
    keep: Collection[str] = (),
) -> Universe:
    """
    Choose the symbols to screen.

    Args:
        info: Answer of `ExchangeClient.exchange_info`.
        quote_volumes: 24 h quote volume in USDT by symbol (`ExchangeClient.quote_volumes`). Needed to rank and to ask
            for a minimum; a symbol missing from it counts as 0.
        symbols_max: Greatest count; the smallest volumes go first.
        min_quote_volume: Least 24 h volume in USDT.
        keep: Symbols that are screened now: they stay while they trade, and rank before all others.

    Raises:
        ValueError: A minimum is asked for without volumes.
    """
    if min_quote_volume > 0 and quote_volumes is None:
        raise ValueError("a minimum quote volume needs the volumes")
    volumes = quote_volumes or {}
    skipped: dict[str, str] = {}
    kept: list[str] = []
    for symbol in info.symbols:
        if symbol.quote_asset != QUOTE:
            continue
        reason = _why_not(symbol)
        is_quiet = symbol.symbol not in keep and volumes.get(symbol.symbol, 0.0) < min_quote_volume
        if reason is None and is_quiet:
            reason = (
                f"24 h volume {volumes.get(symbol.symbol, 0.0):,.0f} {QUOTE} is below {min_quote_volume:,.0f}"
            )
        if reason is None:
            kept.append(symbol.symbol)
        else:
            skipped[symbol.symbol] = reason
    kept.sort(key=lambda name: (name not in keep, -volumes.get(name, 0.0)))
    skipped |= dict.fromkeys(kept[symbols_max:], f"beyond the {symbols_max} greatest")
    return Universe(tuple(kept[:symbols_max]), skipped)


def _why_not(symbol: SymbolInfo) -> str | None:
    if symbol.status != "TRADING":
        return f"status {symbol.status}"
    if not symbol.is_spot_trading_allowed:
        return "not on the spot market"
    return None
