"""
Ends a process whose event loop hangs: nothing that it should do is done, while its threads answer as if all were well.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANGS_AFTER_S = 45.0  # with the start of the next process well within a minute
STEP_S = 1.0
SUSPENDED_S = (
    5.0  # a step this late: the whole process stood still (SIGSTOP, a sleeping laptop), not its loop alone
)
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


@contextmanager
def watchdog(
    *, hangs_after_s: float = HANGS_AFTER_S, end: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """
    Watch the running event loop while the context lasts. When nothing ran on it for *hangs_after_s*, say where each
    thread is on stderr and end the process at once with ``EXIT_CODE``.
    """
    loop = asyncio.get_running_loop()
    over = threading.Event()
    answered = [time.monotonic()]

    def answer() -> None:
        answered[0] = time.monotonic()

    def watch() -> None:
        stepped = time.monotonic()
        while not over.wait(STEP_S):
            now = time.monotonic()
            if now - stepped > SUSPENDED_S:
                answered[0] = now
            stepped = now
            if now - answered[0] > hangs_after_s:
                sys.stderr.write(f"vyx: the event loop did nothing for {hangs_after_s:g} s; ending.\n")
                faulthandler.dump_traceback(all_threads=True)
                end(EXIT_CODE)
                return
            loop.call_soon_threadsafe(answer)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
