"""
Named queries: one ``sql/queries/<table>.sql`` per table, ``-- name --`` before each query, a line of purpose
below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import LiteralString, cast

from app.package_data import SQL_DIR

_NAME = re.compile(r"^-- ([a-z0-9_]+) --\n", re.MULTILINE)


def load(table: str) -> Mapping[str, LiteralString]:
    """
    Read *table*'s queries, keyed by name, with their comments kept (they show in pg_stat_activity).

    Raises:
        FileNotFoundError: there is no ``sql/queries/<table>.sql``.
    """
    _, *parts = _NAME.split((SQL_DIR / "queries" / f"{table}.sql").read_text(encoding="utf-8"))
    # The text is ours, as much as a literal in this file would be.
    return MappingProxyType(
        {
            name: cast("LiteralString", text.strip())
            for name, text in zip(parts[::2], parts[1::2], strict=True)
        }
    )
