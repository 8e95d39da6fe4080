"""
Rows as frozen dataclasses with aware UTC instants, whatever time zone the session speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from psycopg import AsyncCursor
from psycopg.rows import RowMaker

T = TypeVar("T")


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
