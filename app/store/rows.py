"""
Rows as frozen dataclasses with aware UTC instants, whatever time zone the session speaks; and how many a
statement takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from psycopg import AsyncCursor
from psycopg.rows import RowMaker

T = TypeVar("T")
PAGE_BYTES_MAX = 1 << 20  # of a page's rows, about: a row is in whole or not at all
ROWS_AT_ONCE = 10_000  # rows per statement: 0.2 s; statement_timeout is 5 s


def batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """*items* in pieces for one statement each."""
    return (items[first : first + ROWS_AT_ONCE] for first in range(0, len(items), ROWS_AT_ONCE))


@dataclass(frozen=True)
class Page(Generic[T]):
    """Rows of a list, and whether the list goes on behind them."""

    items: list[T]
    has_more: bool


def page_of(rows: Sequence[tuple[T, bool]]) -> Page[T]:
    """From rows as ``with_next`` makes them."""
    return Page([row for row, _ in rows], bool(rows) and rows[-1][1])


def with_next(make: Callable[..., T]) -> Callable[..., tuple[T, bool]]:
    """Takes the column ``has_next`` out of a row."""

    def row(*, has_next: bool, **columns: Any) -> tuple[T, bool]:
        return make(**columns), has_next

    return row


def in_utc(value: Any) -> Any:
    """The value itself, an instant moved to UTC."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def rows_of(make: Callable[..., T]) -> Callable[[AsyncCursor[Any]], RowMaker[T]]:
    """A row factory that calls *make* with each row's columns by name."""

    def factory(cursor: AsyncCursor[Any]) -> RowMaker[T]:
        names = [column.name for column in cursor.description or ()]

        def row(values: Sequence[Any]) -> T:
            return make(**dict(zip(names, map(in_utc, values), strict=True)))

        return row

    return factory
