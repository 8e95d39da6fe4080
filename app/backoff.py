"""
How long to wait before something that ended is started again: doubling, with a longest wait, and spread.
"""

from __future__ import annotations

import random


class Backoff:
    """
    Waits of ``first_s``, twice that, and so on up to ``longest_s``, each shortened at random by up to half.

    The spread keeps processes that lost the same server from all coming back at once.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._wait_s = first_s

    def next_s(self) -> float:
        """The next wait, in seconds."""
        wait_s, self._wait_s = self._wait_s, min(self._wait_s * 2, self._longest_s)
        return wait_s * random.uniform(0.5, 1)  # noqa: S311 spreads restarts, protects nothing

    def reset(self) -> None:
        """It worked: the next wait is the first again."""
        self._wait_s = self._first_s
