"""
Pages of lists and their cursors: opaque to the client, a position in the list's order to us.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from app.errors import Kind, Refused

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
T = TypeVar("T")


def page_of(
    rows: Sequence[T], limit: int, cursor_behind: Callable[[T], str]
) -> tuple[Sequence[T], str | None]:
    """
    The page, and the cursor of the next one; None at the end of the list.

    *rows* is what the store gave when asked for ``limit + 1``: the extra row says that there is more.
    """
    page = rows[:limit]
    return page, cursor_behind(page[-1]) if len(rows) > limit else None


def write_cursor(at: datetime, row_id: UUID | int) -> str:
    """A cursor behind the row of that instant and id."""
    microseconds = (at - _EPOCH) // (datetime.resolution)
    return base64.urlsafe_b64encode(f"{microseconds} {row_id}".encode()).decode().rstrip("=")


def read_trader_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """
    Raises:
        Refused: it is not one of ours.
    """
    if cursor is None:
        return None
    at, row_id = _parts(cursor)
    try:
        return at, UUID(row_id)
    except ValueError:
        raise _foreign() from None


def read_signal_cursor(cursor: str | None) -> tuple[datetime, int] | None:
    """
    Raises:
        Refused: it is not one of ours.
    """
    if cursor is None:
        return None
    at, row_id = _parts(cursor)
    if not (row_id.isascii() and row_id.isdigit() and int(row_id) < 2**63):
        raise _foreign()
    return at, int(row_id)


def read_delivery_cursor(cursor: str | None) -> tuple[datetime, int] | None:
    """
    Raises:
        Refused: it is not one of ours.
    """
    if cursor is None:
        return None
    at, row_id = _parts(cursor)
    if not (row_id.isascii() and row_id.removeprefix("-").isdigit() and abs(int(row_id)) < 2**63):
        raise _foreign()
    return at, int(row_id)


def read_id_cursor(cursor: str | None) -> UUID:
    """
    Where a list in the order of its ids goes on; the lowest id for its beginning.

    Raises:
        Refused: it is not one of ours.
    """
    try:
        return UUID(cursor or "00000000-0000-0000-0000-000000000000")
    except ValueError:
        raise _foreign() from None


def _parts(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
        microseconds, _, row_id = text.partition(" ")
        return _EPOCH + int(microseconds) * datetime.resolution, row_id
    except (ValueError, binascii.Error, OverflowError):
        raise _foreign() from None


def _foreign() -> Refused:
    return Refused(Kind.REQUEST_INVALID, "The cursor is not one that this list has given.")
