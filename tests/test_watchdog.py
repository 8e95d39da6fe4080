from __future__ import annotations

import asyncio
import threading

from app import watchdog as module
from app.watchdog import EXIT_CODE, watchdog


async def test_a_loop_that_hangs_is_ended(monkeypatch, capfd):
    monkeypatch.setattr(module, "STEP_S", 0.01)
    ended, codes = threading.Event(), []

    with watchdog(hangs_after_s=0.2, end=lambda code: (codes.append(code), ended.set())):
        await asyncio.sleep(0)
        was_ended = ended.wait(30)  # blocks the loop, as a hang does

    assert was_ended
    assert codes == [EXIT_CODE]
    said = capfd.readouterr().err
    assert "the event loop did nothing for 0.2 s" in said
    assert "test_watchdog.py" in said, "where it hangs"


async def test_a_loop_that_works_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "STEP_S", 0.01)
    codes, answers = [], 0

    with watchdog(hangs_after_s=30, end=codes.append):
        for _ in range(50):
            await asyncio.sleep(0.001)
            answers += 1

    assert (answers, codes) == (50, [])
