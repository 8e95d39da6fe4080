"""The CPU time of other processes, and what ends those that use too much."""

import signal
import subprocess
import sys

from sandbox.interpreter.cpu_time import CpuWatch, Watched


def test_a_process_that_uses_up_its_cpu_time_is_ended():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        with CpuWatch().limit(process.pid, 0.05) as watched:
            assert process.wait() == -signal.SIGKILL

        assert watched.struck
        assert watched.spent_s > 0.05


def test_a_process_that_waits_uses_no_cpu_time():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        watched = Watched(process.pid, 1.0)

        assert watched.spent_s < 0.5
        assert process.stdin is not None
        process.stdin.close()


def test_a_process_that_is_gone_keeps_what_was_seen_of_it():
    with subprocess.Popen(
        [sys.executable, "-c", "sum(range(10**6)); input()"], stdin=subprocess.PIPE
    ) as process:
        watched = Watched(process.pid, 1.0)
        while watched.spent_s == 0:
            pass
        process.kill()
        process.wait()

        assert watched.spent_s > 0
