"""
Where the files that are not Python lie: beside the source in a working copy, inside the package in an installed wheel.

What is listed here is listed in ``pyproject.toml`` (``force-include``), too.
"""

from __future__ import annotations

from pathlib import Path

_SOURCE = Path(__file__).parents[1]
_PACKAGED = Path(__file__).parent / "packaged"  # made by the build of the wheel, never in a working copy


def _folder(packaged: str, source: str) -> Path:
    return _PACKAGED / packaged if _PACKAGED.is_dir() else _SOURCE / source


SQL_DIR = _folder("sql", "sql")
FILTERS_DIR = _folder("filters", "docs/filters")
