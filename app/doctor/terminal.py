"""``vyx doctor`` for a person, or as JSON."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from app.doctor.database import Planned
from app.doctor.examination import examine
from app.doctor.findings import Finding, Severity
from app.settings import Settings

_MARK = {Severity.RIGHT: "ok  ", Severity.DOUBTFUL: "look", Severity.WRONG: "BAD "}


def show(settings: Settings, *, web: int, workers: int, as_json: bool) -> bool:
    """Examine and print; whether nothing is wrong."""
    planned = Planned(web=web, workers=workers, pool_max=settings.pool_max)
    findings = asyncio.run(examine(settings, os.environ, planned))
    worst = Severity.WRONG if any(one.severity is Severity.WRONG for one in findings) else Severity.RIGHT
    if as_json:
        report = {"right": worst is Severity.RIGHT, "findings": findings}
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.writelines(_line(one) for one in findings)
    return worst is Severity.RIGHT


def _line(one: Finding) -> str:
    remedy = f"\n     → {one.remedy}" if one.remedy else ""
    return f"{_MARK[one.severity]} {one.subject}: {one.found}{remedy}\n"
