"""
Bodies that trading bots expect, filled in from a signal.

Each preset names the settings it needs; they are sealed with the destination and never returned. None has been tried against its live
service: use the test send first. A test of a destination with a preset sends ``{"test": true}``: a test must not place an order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A template, the settings it names, and the kind of destination it is for."""

    kind: str
    settings: tuple[str, ...]
    template: str
    url: str | None = None


PRESETS: dict[str, Preset] = {
    "3commas": Preset(
        kind="webhook",
        settings=("secret", "bot_uuid"),
        url="https://api.3commas.io/signal_bots/webhooks",
        template='{"secret": "{{settings.secret}}", "max_lag": "300", "timestamp": "{{triggered_at}}", "trigger_price": "{{price}}",'
        ' "tv_exchange": "BINANCE", "tv_instrument": "{{symbol}}", "action": "enter_long", "bot_uuid": "{{settings.bot_uuid}}"}',
    ),
    "altrady": Preset(
        kind="webhook",
        settings=("api_key", "api_secret"),
        template='{"api_key": "{{settings.api_key}}", "api_secret": "{{settings.api_secret}}", "exchange": "BINA", "action": "open",'
        ' "symbol": "BINA_{{quote}}_{{base}}", "side": "long", "signal_price": {{price}}}',
    ),
    "traderspost": Preset(
        kind="webhook",
        settings=(),
        template='{"ticker": "{{symbol}}", "action": "buy", "price": {{price}}, "time": "{{triggered_at}}", "extras": {"signal_id": {{id}}}}',
    ),
    "freqtrade": Preset(
        kind="webhook",
        settings=(),
        template='{"pair": "{{base}}/{{quote}}", "side": "long", "price": {{price}}, "entry_tag": "vyx {{id}}"}',
    ),
    "generic": Preset(
        kind="webhook",
        settings=(),
        template='{"id": {{id}}, "trader": "{{trader_name}}", "symbol": "{{symbol}}", "price": {{price}}, "time": "{{triggered_at}}", "url": "{{url}}"}',
    ),
    "cornix": Preset(
        kind="telegram",
        settings=("take_profit_percent", "stop_percent"),
        template="#{{base}}/{{quote}}\nSignal Type: Regular (Long)\nEntry: {{price}}\nTake-Profit: {{settings.take_profit_percent}}%\n"
        "Stop: {{settings.stop_percent}}%",
    ),
}
