"""
Which Postgres runs in a cluster's folder, read from ``postmaster.pid`` and held against the processes that there are.

The file alone proves nothing: after a crash or a restart of the machine its process id may be anybody's, and it may be cut short.
A server is recognised by its name and its working directory, which is the cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import structlog

if TYPE_CHECKING:
    import psutil

END_WITHIN_S = 20.0
_FIELDS = 8  # pid, cluster, start time, port, socket folder, listen address, shared memory, state

log = structlog.get_logger(__name__)


class _Noted(NamedTuple):
    """What ``postmaster.pid`` says."""

    pid: int
    sockets: Path
    state: str


def address(sockets: Path) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='/')}"


def find(cluster: Path) -> str | None:
    """The address of the server that runs in *cluster*; None when none does."""
    noted = _read(cluster)
    return address(noted.sockets) if noted is not None and _is_server(noted.pid, cluster) else None


def is_ready(cluster: Path, pid: int) -> bool:
    """Whether the server with this process id takes connections."""
    noted = _read(cluster)
    return noted is not None and noted.pid == pid and noted.state == "ready"


def clear(cluster: Path) -> None:
    """Remove a ``postmaster.pid`` whose process is gone or somebody else's: Postgres would take it for a server."""
    path = cluster / "postmaster.pid"
    if not path.exists():
        return
    noted = _read(cluster)
    if noted is None or not _is_server(noted.pid, cluster):
        log.warning("the last run was killed: removing its postmaster.pid", cluster=str(cluster))
        path.unlink(missing_ok=True)


def end_orphans(cluster: Path) -> None:
    """
    End the servers that a killed run left in *cluster*: in order, or by force after ``END_WITHIN_S``.
    """
    import psutil  # noqa: PLC0415 comes with the embedded Postgres; an image leaves both out

    found = [process for process in psutil.process_iter() if _works_in(process, cluster)]
    if not found:
        return
    log.warning(
        "the last run was killed and left its Postgres: ending it", pids=[process.pid for process in found]
    )
    children = {child.pid for process in found for child in process.children()}
    for process in found:
        if process.pid not in children:
            process.send_signal(2)  # SIGINT: a fast shutdown
    _, alive = psutil.wait_procs(found, timeout=END_WITHIN_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=END_WITHIN_S)


def _read(cluster: Path) -> _Noted | None:
    """None when there is no file, or one that was cut short."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) < _FIELDS:
            return None
        return _Noted(int(lines[0]), Path(lines[4].strip()), lines[7].strip())
    except (FileNotFoundError, PermissionError, ValueError):
        return None


def _is_server(pid: int, cluster: Path) -> bool:
    import psutil  # noqa: PLC0415

    try:
        return _works_in(psutil.Process(pid), cluster)
    except psutil.NoSuchProcess:
        return False


def _works_in(process: psutil.Process, cluster: Path) -> bool:
    import psutil  # noqa: PLC0415

    try:
        return process.name() == "postgres" and Path(process.cwd()) == cluster
    except psutil.AccessDenied:  # another user's process: its name is all that can be seen
        return False
    except psutil.NoSuchProcess:
        return False
