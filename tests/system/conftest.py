from __future__ import annotations

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory):
    """Short: an embedded server's socket lies in it, and a socket's path has at most 107 bytes."""
    return tmp_path_factory.mktemp("t")
