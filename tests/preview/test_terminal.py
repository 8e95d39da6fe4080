from __future__ import annotations

from datetime import timedelta

import pytest

from app.preview import terminal
from app.preview.terminal import sparkline
from tests.preview.conftest import FIRST
from tests.preview.test_history import plan_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█"),
        ([8, 1], "█▁"),
        ([5, 5, 5], "▅▅▅"),
        ([float("nan"), 1, 2], " ▁█"),
        ([float("nan")] * 2, "  "),
        ([1e-9, 2e-9], "▁█"),
    ],
)
def test_a_sparkline_spans_from_the_lowest_to_the_highest_close(values, expected):
    assert sparkline(values) == expected


@pytest.mark.parametrize(("bars", "begins"), [(250, True), (20, False)])
async def test_a_preview_says_since_when_candles_are_stored(dsn, candles, capsys, bars, begins):
    """Where they begin later than what was asked for: at the first of 250 minutes no 15m candle is stored."""
    candles.execute(
        "delete from vyx.candles where timeframe = '15m' and open_time < %s", (FIRST + timedelta(hours=2),)
    )

    await terminal.show(dsn, plan_of("1m", coarse="15m"), bars=bars, symbols=None, as_json=False)

    told = " ".join(capsys.readouterr().out.split())
    assert f"in {bars} bars of 1m, 4 pairs" in told
    assert ("begin later" in told and "15m from 2024-05-01 12:00 UTC" in told) is begins
