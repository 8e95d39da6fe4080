"""
Templates of messages: Liquid without its logic. ``{{price}}``, ``{{values.rsi | 1}}`` (so many decimals), ``{% for s in signals %}``.

Decided here: which tags and filters there are, how much a template may write, how values look. Strings are escaped for the channel
before they enter, so that a trader's name cannot become markup or another field of a JSON body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liquid import Environment, StrictUndefined
from liquid.exceptions import LiquidError

TEMPLATE_BYTES_MAX = 8192
OUTPUT_BYTES_MAX = 16_384  # a message is below 20 KB with everything around it
TAGS = frozenset({"for", "comment", "content", "output", "illegal"})
FILTERS = frozenset({"upcase", "downcase", "default", "date", "size", "first", "last", "truncate"})
_DECIMALS = re.compile(r"\|\s*(\d{1,2})(?=\s*(?:\||}}))")

Escape = Callable[[str], str]


class TemplateInvalid(ValueError):
    """The template cannot be read, or not be filled in; the text says where and why."""


class _Limited(Environment):
    output_stream_limit = OUTPUT_BYTES_MAX
    loop_iteration_limit = 2000
    context_depth_limit = 8
    local_namespace_limit = 100_000


def _make_environment() -> Environment:
    environment = _Limited(undefined=StrictUndefined)
    for name in set(environment.tags) - TAGS:
        del environment.tags[name]
    for name in set(environment.filters) - FILTERS:
        del environment.filters[name]
    environment.add_filter("decimals", _decimals)
    return environment


def _decimals(value: Any, places: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.{int(places)}f}"


def _plain(value: float) -> str:
    """A price as people write it: no exponent, no trailing zeros, up to 12 significant digits."""
    if not math.isfinite(value):
        return "n/a"
    text = f"{value:.12g}"
    if "e" in text:
        text = f"{value:.20f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.0f}"
    return text


class _Number(float):
    """Prints as people write prices."""

    def __str__(self) -> str:
        return _plain(float(self))

    __format__ = float.__format__


_ENVIRONMENT = _make_environment()


def render(template: str, context: Mapping[str, Any], escape: Escape) -> str:
    """
    *template* filled in; every string of *context* passes through *escape* first.

    Raises:
        TemplateInvalid: it is no template, names a value that there is not, or writes too much.
    """
    if len(template.encode()) > TEMPLATE_BYTES_MAX:
        raise TemplateInvalid(f"A template has at most {TEMPLATE_BYTES_MAX} bytes.")
    try:
        parsed = _ENVIRONMENT.from_string(_DECIMALS.sub(r"| decimals: \1", template))
        return parsed.render(**_prepared(context, escape))
    except LiquidError as error:
        raise TemplateInvalid(f"The template cannot be used: {str(error).strip().splitlines()[0]}.") from None


def _prepared(value: Any, escape: Escape) -> Any:
    if isinstance(value, bool) or value is None:
        return escape({True: "true", False: "false", None: "n/a"}[value])
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return _Number(value)
    if isinstance(value, Mapping):
        return {str(name): _prepared(item, escape) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_prepared(item, escape) for item in value]
    return escape(str(value))
