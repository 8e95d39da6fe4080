"""
The CPU time of other processes: what interpreter processes are limited by and charged for.

A limit in wall-clock time refuses on a busy machine what passes on an idle one. Linux keeps a CPU clock for each process
that anybody may read; where there is none (macOS), wall-clock time stands in for it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

POLL_S = 0.02
_PER_PROCESS = 2  # CPUCLOCK_SCHED of all threads: how <linux/posix-timers.h> builds the clock's id


def cpu_s(pid: int | None) -> float:
    """
    Seconds of CPU that a process has used; of one that is gone, 0.

    Without such clocks, or when *pid* is None, seconds of a wall clock: differences still are an upper bound.
    """
    if pid is None or sys.platform != "linux":
        return time.monotonic()
    try:
        return time.clock_gettime((~pid << 3) | _PER_PROCESS)
    except OSError:
        return 0.0


class Watched:
    """One process under a limit; ``struck`` once it was ended for it."""

    def __init__(self, pid: int | None, limit_s: float) -> None:
        self.pid = pid
        self.limit_s = limit_s
        self.struck = False
        self._began_s = cpu_s(pid)
        self._seen_s = 0.0

    @property
    def spent_s(self) -> float:
        """CPU seconds since the watch began; of a process that is gone, what was seen last."""
        self._seen_s = max(self._seen_s, cpu_s(self.pid) - self._began_s)
        return self._seen_s


class CpuWatch:
    """Ends processes that use more CPU than they may; one thread, which sleeps while nothing is watched."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[Watched] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, pid: int | None, limit_s: float) -> Iterator[Watched]:
        """Kill the process when it uses more than *limit_s* within the block; what talks to it sees it crash."""
        watched = Watched(pid, limit_s)
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cpu watch", daemon=True)
                self._thread.start()
            self._wake.set()
        try:
            yield watched
        finally:
            with self._lock:
                self._watched.discard(watched)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(POLL_S)
            with self._lock:
                if not self._watched:
                    self._wake.clear()
                for watched in self._watched:
                    if watched.spent_s > watched.limit_s and not watched.struck:
                        watched.struck = True
                        _kill(watched.pid)


def _kill(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
