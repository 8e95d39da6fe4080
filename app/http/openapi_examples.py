"""
Examples of the OpenAPI document, by the name of the type they are of. A test holds each against its type.
"""

from __future__ import annotations

from typing import Any

_FILTER = """m15 = bars("15m")

show(rsi=ta.rsi(m15.close, 14))
signal(crossunder(m15.close, lowest(m15.low, 20)[1]))
"""
_TRADER_ID = "7b0c2f4e-5f43-4c0e-9b1a-6a3f0d1c9e21"
_STATUS: dict[str, Any] = {
    "trader_id": _TRADER_ID,
    "state": "running",
    "health": "ok",
    "reason": None,
    "machine_id": "worker-1",
    "started_at": "2026-01-31T12:00:01Z",
    "stopped_at": None,
    "last_error": None,
    "error_count": 0,
    "retry_at": None,
    "signal_count": 3,
    "last_signal_at": "2026-01-31T12:15:00Z",
    "signals_today": 3,
    "signals_per_day": 200000,
    "flooding_since": None,
    "screened_through": "2026-01-31T12:16:00Z",
    "lag_s": 0.4,
    "version": 2,
}

EXAMPLES: dict[str, Any] = {
    "NewTrader": {"name": "Breakdown on volume", "filter": _FILTER, "symbols": ["BTCUSDT", "ETHUSDT"]},
    "TraderChange": {"frequency": {"cooldown_s": 3600}},
    "TraderIds": {"ids": [_TRADER_ID]},
    "FilterRun": {"filter": _FILTER, "bars": 500},
    "NewKey": {"name": "my bot", "scopes": ["trade"], "expires_at": "2027-01-01T00:00:00Z"},
    "Status": _STATUS,
    "Signal": {
        "id": 4711,
        "trader_id": _TRADER_ID,
        "symbol": "BTCUSDT",
        "timeframe": "15m",
        "triggered_at": "2026-01-31T12:15:00Z",
        "price": 77123.5,
        "values": {"rsi": 28.4, "is_heavy": True, "ratio": None},
        "screened_at": "2026-01-31T12:15:00.412Z",
        "created_at": "2026-01-31T12:15:00.431Z",
        "late": False,
        "forming": False,
    },
    "Problem": {
        "type": "https://vyx.dev/problems/quota-exceeded",
        "title": "Quota exceeded",
        "status": 403,
        "detail": "the pro tier runs at most 10 traders and 10 are active",
        "request_id": "3f1c9a7be0d34c0f",
        "quota": "running_traders",
        "limit": 10,
        "used": 10,
        "tier": "pro",
        "next_tier": "elite",
    },
}
