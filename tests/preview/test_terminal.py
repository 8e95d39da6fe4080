from __future__ import annotations

import pytest

from app.preview.terminal import sparkline


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
