"""
Channels, clouds and trend lines as charting sites draw them, composed of TA-Lib's functions and running extremes.

Decided here: which definition a name stands for where there are several (said in each operator's text), and names,
order and defaults of parameters, which are TradingView's where it has the indicator. Warm-up, gaps and NaN are those
of the parts; the recursive ones (ta.ema, ta.atr, ta.rsi, ta.supertrend, ta.ha) run from their anchored start.
"""

from collections.abc import Sequence
from typing import Any

from sandbox.plan.operators.kind import Composed, Expand, Make, Params
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.operators.talib_functions import PERIOD_MAX


def _const(make: Make, value: float) -> int:
    return make("const", value=value)


def _middle(make: Make, upper: int, lower: int) -> int:
    return make("div", make("add", upper, lower), _const(make, 2.0))


def _donchian(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    high, low = inputs
    upper = make("highest", high, period=params["period"])
    lower = make("lowest", low, period=params["period"])
    return upper, _middle(make, upper, lower), lower


def _keltner(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    high, low, close = inputs
    middle = make("ta.ema", close, timeperiod=params["period"])
    span = make("ta.atr", high, low, close, timeperiod=params["atr_period"])
    distance = make("mul", span, _const(make, float(params["multiplier"])))
    return make("add", middle, distance), middle, make("sub", middle, distance)


def _ichimoku(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    conversion, base, span_b = (
        _donchian(make, inputs, {"period": params[name]})[1] for name in ("conversion", "base", "span_b")
    )
    return conversion, base, _middle(make, conversion, base), span_b


def _supertrend(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    given = {"timeperiod": params["period"], "multiplier": params["multiplier"]}
    return tuple(make("ta.supertrend", *inputs, out=out, **given) for out in range(2))


def _stochrsi(make: Make, inputs: Sequence[int], params: Params) -> tuple[int, ...]:
    rsi = make("ta.rsi", *inputs, timeperiod=params["rsi_period"])
    highest = make("highest", rsi, period=params["stoch_period"])
    lowest = make("lowest", rsi, period=params["stoch_period"])
    place = make("div", make("sub", rsi, lowest), make("sub", highest, lowest))
    k = make("ta.sma", make("mul", place, _const(make, 100.0)), timeperiod=params["k"])
    return k, make("ta.sma", k, timeperiod=params["d"])


def _heikin_ashi(make: Make, inputs: Sequence[int], _params: Params) -> tuple[int, ...]:
    return tuple(make("ta.ha", *inputs, out=out) for out in range(4))


def _period(name: str, default: int, low: int = 1) -> Param:
    return Param(name, "int", default, low, PERIOD_MAX, (), "Bars.")


def _multiplier(default: float) -> Param:
    return Param("multiplier", "float", default, 0.0, 100.0, (), "Ranges.")


def _longest(params: Params) -> int:
    """The longest period: what tells a costly use from a cheap one where a message names it."""
    return max((int(value) for value in params.values()), default=0)


def _operator(  # noqa: PLR0917 - a table row, read by column
    name: str,
    inputs: tuple[str, ...],
    params: tuple[Param, ...],
    outputs: tuple[str, ...],
    expand: Expand,
    doc: str,
) -> Operator:
    kinds: Any = ("float",) * len(inputs)
    return Operator(
        name,
        inputs,
        params,
        outputs,
        "float",
        "Channels and trends",
        doc,
        Composed(expand, _longest),
        input_kinds=kinds,
    )


def band_operators() -> list[Operator]:
    """donchian, keltner, ichimoku, supertrend, stochrsi, heikin_ashi."""
    return [*_channels(), *_trends()]


_HIGH_LOW, _HIGH_LOW_CLOSE = ("high", "low"), ("high", "low", "close")


def _channels() -> list[Operator]:
    return [
        _operator(
            "donchian",
            _HIGH_LOW,
            (_period("period", 20),),
            ("upper", "middle", "lower"),
            _donchian,
            "Donchian channel: the highest high and the lowest low of the last `period` bars, this one included, and"
            " halfway between. For a breakout compare with the bar before: close > upper[1]. NaN until `period` bars.",
        ),
        _operator(
            "keltner",
            _HIGH_LOW_CLOSE,
            (_period("period", 20), _multiplier(2.0), _period("atr_period", 10)),
            ("upper", "middle", "lower"),
            _keltner,
            "Keltner channel: ta.ema(close, period), and `multiplier` times ta.atr(high, low, close, atr_period) above"
            " and below it, as TradingView draws it by default (Linda Raschke's form). NaN until both have a value.",
        ),
        _operator(
            "ichimoku",
            _HIGH_LOW,
            (_period("conversion", 9), _period("base", 26), _period("span_b", 52)),
            ("conversion", "base", "span_a", "span_b"),
            _ichimoku,
            "Ichimoku: halfway between highest high and lowest low of the last `conversion` (Tenkan-sen), `base`"
            " (Kijun-sen) and `span_b` bars; span_a is halfway between conversion and base. All as of this bar, nothing"
            " is displaced: charts draw the spans 26 bars later, so the cloud that lies under this bar is span_a[26] and"
            " span_b[26] (TradingView counts this bar as the first: [25]). NaN until the bars are there.",
        ),
    ]


def _trends() -> list[Operator]:
    return [
        _operator(
            "supertrend",
            _HIGH_LOW_CLOSE,
            (_period("period", 10, 2), _multiplier(3.0)),
            ("line", "direction"),
            _supertrend,
            "SuperTrend: a stop at `multiplier` times ta.atr(high, low, close, period) from (high + low) / 2 that follows"
            " the trend and never retreats (TA-Lib SUPERTREND). direction is 1 while the line lies below the price (up)"
            " and -1 while it lies above (down); TradingView's sign is the opposite. It remembers its last reversals:"
            " given a fixed warm-up of the ATR's and 256 bars. NaN until `period` + 1 bars.",
        ),
        _operator(
            "stochrsi",
            ("close",),
            (
                _period("rsi_period", 14, 2),
                _period("stoch_period", 14),
                _period("k", 3),
                _period("d", 3),
            ),
            ("k", "d"),
            _stochrsi,
            "Stochastic RSI as charting sites define it: where ta.rsi(close, rsi_period) lies between its lowest (0) and"
            " highest (100) of the last `stoch_period` bars, averaged over `k` bars; d is the average of that over `d`"
            " bars. (ta.stochrsi, TA-Lib's, does not average k.) NaN while RSI did not move for `stoch_period` bars, and"
            " until the averages behind that are filled again.",
        ),
        _operator(
            "heikin_ashi",
            ("open", "high", "low", "close"),
            (),
            ("open", "high", "low", "close"),
            _heikin_ashi,
            "Heikin-Ashi candles (TA-Lib HA): close = (open + high + low + close) / 4, open = halfway between the open"
            " and close of the Heikin-Ashi candle before, high and low including them. The first candle's open is"
            " forgotten by half with every bar.",
        ),
    ]
