"""
A real `vyx up` on a data directory of its own, as the benchmarks and the system tests use it; run by nobody directly.

Everything it starts is ended by process id, and its folder goes with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from app.store import embedded

ROOT = Path(__file__).resolve().parents[1]
SHARED_DUMPS = ROOT.parent / "shared" / "data" / "dumps"
STOP_S = 40

# Four styles on four triggers: what a mixed board of users asks of one worker.
FILTERS = {
    "1m oversold on volume": 'b = bars("1m")\nshow(rsi=ta.rsi(b.close, 14))\n'
    "signal(ta.rsi(b.close, 14) < 30 and b.volume > 2 * ta.sma(b.volume, 20))\n",
    "5m breakdown in a 1h downtrend": 'm5, h1 = bars("5m"), bars("1h")\nsupport = lowest(m5.low, 20)[1]\n'
    "signal(crossunder(m5.close, support) and h1.close < ta.ema(h1.close, 10))\n",
    "15m momentum, as a loop": 'b = bars("15m")\nordered = True\naverages = [ta.ema(b.close, n) for n in (5, 8, 13)]\n'
    "for fast, slow in zip(averages, averages[1:]):\n    ordered = ordered and fast > slow\nsignal(ordered)\n",
    "1h squeeze, as a function": "def width(close, n=20):\n    upper, middle, lower = ta.bbands(close, n, 2, 2)\n"
    '    return (upper - lower) / middle\n\nw = width(bars("1h").close)\nsignal(w <= lowest(w, 30))\n',
}


def environment(**extra: str) -> dict[str, str]:
    """The environment without anything that configures Vyx, then *extra*."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VYX_", "SUPABASE_", "DATABASE_URL"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return kept | {"VYX_LOG_FORMAT": "json", "PYTHONPATH": path} | extra


def vyx(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the command line, run to its end within two minutes."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
        cwd=ROOT,
        timeout=120,
    )


class Service:
    """`vyx up --port 0` with more *flags*; use as a context manager. Without a folder it makes one and removes it at the end."""

    def __init__(self, *flags: str, data_dir: Path | None = None, **variables: str) -> None:
        self._scratch = None
        if data_dir is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True)
            data_dir = Path(self._scratch.name)
        self.data_dir = data_dir
        self.log: list[str] = []
        command = [sys.executable, "-m", "app.cli", "up", "--data-dir", str(data_dir), "--port", "0"]
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--metrics-port", "off", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables),
            cwd=ROOT,
        )
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - started
        if not line.startswith("vyx ready "):
            self.__exit__()
            raise RuntimeError(f"vyx up did not become ready: {line!r}\n" + "".join(self.log[-20:]))
        self.url = line.removeprefix("vyx ready ").strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(10)
            self.process.stdout.close()
            self.process.stderr.close()
            if self._scratch is not None:
                self._scratch.cleanup()

    @property
    def database_url(self) -> str:
        url = embedded.find(self.data_dir)
        if url is None:
            raise RuntimeError(f"no database runs in {self.data_dir}")
        return url

    def token(self, user: str, tier: str = "elite", minutes: int = 600) -> str:
        flags = ["--user", user, "--tier", tier, "--minutes", str(minutes), "--data-dir", str(self.data_dir)]
        done = vyx("token", *flags)
        if done.returncode != 0:
            raise RuntimeError(f"no token: {done.stderr}")
        return done.stdout.strip()

    def request(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of the answer, whatever the status is. A *body* of bytes is sent as it is."""
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310 the service's own address
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, data, timeout=30) as response:  # noqa: S310 the service's own address
                text, status, given = response.read(), response.status, dict(response.headers)
        except urllib.error.HTTPError as error:
            text, status, given = error.read(), error.code, dict(error.headers)
        return status, json.loads(text) if text else None, given

    def call(self, method: str, path: str, token: str, body: object = None) -> Any:
        """
        The answer's body.

        Raises:
            RuntimeError: a status of 400 or above, with what it said.
        """
        status, answer, _ = self.request(method, path, token, body)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {str(answer)[:500]}")
        return answer

    def save(self, token: str, name: str, source: str) -> str:
        return self.call("POST", "/api/v1/traders", token, {"name": name, "filter": source})["id"]

    def start(self, token: str, trader_id: str, *, within_s: float = 30) -> float:
        """Start a trader over HTTP; returns the seconds until its status said running."""
        began = time.perf_counter()
        self.call("POST", f"/api/v1/traders/{trader_id}/start", token)
        while time.perf_counter() - began < within_s:
            if self.call("GET", f"/api/v1/traders/{trader_id}/status", token)["state"] == "running":
                return time.perf_counter() - began
            time.sleep(0.02)
        raise RuntimeError(f"trader {trader_id} was not running within {within_s:g} s")
