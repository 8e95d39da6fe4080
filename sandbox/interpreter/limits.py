"""What every interpreter process gets, whichever room checked it out: bounds of its own, behind Monty's."""

import resource
import sys
from contextlib import suppress


def limit_worker(pid: int | None, memory_bytes: int) -> None:
    """Bound a worker's address space and keep it from dumping core."""
    if pid is None or sys.platform != "linux":
        return
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        bound = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.prlimit(pid, resource.RLIMIT_AS, (bound, bound))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
