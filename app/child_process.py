"""A child that must not outlive us, whatever way we end."""

from __future__ import annotations

import shutil
import sys


def ending_with_us(signal_name: str) -> list[str]:
    """
    The words to put before a command, so that the kernel sends it *signal_name* when the thread that started it is gone.

    Nothing where the system cannot do it (macOS): there a child of a killed process goes on until the next start.
    """
    program = shutil.which("setpriv") if sys.platform == "linux" else None
    return [program, "--pdeathsig", signal_name, "--"] if program else []
