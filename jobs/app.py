"""
The procrastinate application: a periodic tick, one ``screen`` job per live machine on that machine's own
queue, and previews on a queue that all machines share.

Jobs wake work; ``vyx.slots`` and ``vyx.machines.screened_through`` say what is due. So no screening job
carries data, none is retried (a retried job with a queueing lock can stay ``doing`` for ever), and one that
runs twice, late or never changes nothing but latency.
"""

from __future__ import annotations

import procrastinate

TICK_QUEUE = "tick"
PREVIEW_QUEUE = "preview"

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(),
    import_paths=["jobs.tasks"],
    periodic_defaults={"max_delay": 45},  # an older tick says nothing that the ledger does not
)


def machine_queue(boot_id: int) -> str:
    """The queue only this boot works on; names over 40 bytes break procrastinate's notifications."""
    return f"m.{boot_id}"
