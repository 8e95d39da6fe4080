"""
What a child process gives up before it looks at anything a user wrote.

Decided here: the order and which steps may fail. Limits of memory, files and core dumps, no new privileges and the death
with the parent always hold on Linux. A uid of its own and a network namespace of its own are taken where the kernel and
the file permissions allow it; `confine` says which were.

Call it after all imports and before the first thread: a namespace is taken for the calling thread alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import msgspec

OPEN_FILES_MAX = 64
FIRST_OWN_UID = 61184  # the range that systemd keeps for services without a user of their own: 61184 to 65519
_OWN_UIDS = 4336
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


class Confinement(msgspec.Struct, frozen=True):
    """What could be given up here."""

    own_uid: bool
    no_network: bool
    no_new_privileges: bool


def confine(*, memory_bytes: int) -> Confinement:
    """
    Bound this process for good; more than *memory_bytes* of address space is a MemoryError.
    """
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
    ):
        _, hard = resource.getrlimit(limit)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))
    if sys.platform != "linux":
        return Confinement(own_uid=False, no_network=False, no_new_privileges=False)
    libc = ctypes.CDLL(None, use_errno=True)
    no_network = _without_network(libc)
    own_uid = _with_own_uid()
    no_new_privileges = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the uid: a change of it clears this
    if os.getppid() == 1:
        raise SystemExit("the parent ended before its child was bounded")
    return Confinement(own_uid=own_uid, no_network=no_network, no_new_privileges=no_new_privileges)


def _without_network(libc: ctypes.CDLL) -> bool:
    """An empty network namespace: not even the loopback is up in it."""
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    return bool(libc.unshare(flags) == 0)


def _with_own_uid() -> bool:
    """A uid that nothing else has, when root and that uid may read what this process still has to load and start."""
    if os.geteuid() != 0:
        return False
    uid = FIRST_OWN_UID + os.getpid() % _OWN_UIDS
    interpreter = shutil.which("monty", path=str(Path(sys.executable).parent)) or shutil.which("monty")
    needed = [Path(part) for part in sys.path if part and Path(part).exists()]
    if interpreter is not None:
        needed.append(Path(interpreter))
    os.setegid(uid)
    os.seteuid(uid)
    readable = all(os.access(path, os.R_OK, effective_ids=True) for path in needed)
    os.seteuid(0)
    os.setegid(0)
    if not readable:
        return False
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return True
