"""What the doctor says: one sentence for what was found, one for what to do about it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """``wrong``: it will not work, exit code 1. ``doubtful``: it works, and somebody should know."""

    RIGHT = "right"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``remedy`` is empty where there is nothing to do."""

    subject: str
    severity: Severity
    found: str
    remedy: str = ""


def right(subject: str, found: str) -> Finding:
    return Finding(subject, Severity.RIGHT, found)


def doubtful(subject: str, found: str, remedy: str) -> Finding:
    return Finding(subject, Severity.DOUBTFUL, found, remedy)


def wrong(subject: str, found: str, remedy: str) -> Finding:
    return Finding(subject, Severity.WRONG, found, remedy)
