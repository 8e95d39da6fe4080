"""A real `vyx up` as a child process, and its HTTP interface as a stranger uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
QUIET = {"VYX_LOG_FORMAT": "json", "PYTHONPATH": str(ROOT)}


def vyx(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=_clean(environment),
        timeout=120,
    )


def _clean(extra: dict[str, str]) -> dict[str, str]:
    """The environment without anything that configures Vyx."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VYX_", "SUPABASE_", "DATABASE_URL"))}
    return kept | QUIET | extra


class Service:
    """`vyx up` on a data directory of its own."""

    def __init__(self, data_dir: Path, *flags: str, **environment: str) -> None:
        self.data_dir = data_dir
        command = [
            sys.executable,
            "-m",
            "app.cli",
            "up",
            "--data-dir",
            str(data_dir),
            "--port",
            "0",
            "--metrics-port",
            "off",
            *flags,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_clean(environment)
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        if not line.startswith("vyx ready "):
            self.process.wait(30)
            raise AssertionError(f"not ready: {line!r}\n" + "".join(self.log))
        self.url = line.removeprefix("vyx ready ").strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(10)
            self.process.stdout.close()
            self.process.stderr.close()

    def token(self, user: str, tier: str | None = None, minutes: int = 60) -> str:
        flags = ["--tier", tier] if tier else []
        done = vyx(
            "token", "--user", user, "--minutes", str(minutes), "--data-dir", str(self.data_dir), *flags
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        request = urllib.request.Request(self.url + path, method=method)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, data, timeout=30) as response:
                text, status, given = response.read(), response.status, dict(response.headers)
        except urllib.error.HTTPError as error:
            text, status, given = error.read(), error.code, dict(error.headers)
        return status, json.loads(text) if text else None, given

    def all_signals(self, token: str, trader_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            status, page, _ = self.call(
                "GET", f"/api/v1/signals?trader_id={trader_id}&limit=1000{cursor}", token
            )
            assert status == 200, page
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"


def eventually(predicate: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """The first truthy answer of *predicate*, asked ten times a second."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if answer := predicate():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {within_s:g} s: {what}")
