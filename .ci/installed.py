"""The main job, once, with an installed ``vyx`` (its path is the argument): a trader is checked, saved and started, and signals arrive."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

VYX = sys.argv[1]
FILTER = 'b = bars("1m")\nshow(close=b.close)\nsignal(b.close > 0)\n'
USER = "11111111-1111-4111-8111-111111111111"
START_WITHIN_S = 180.0
SIGNAL_WITHIN_S = 90.0
STOP_WITHIN_S = 60.0


def _run(*arguments: str) -> str:
    return subprocess.run([VYX, *arguments], check=True, capture_output=True, text=True, timeout=120).stdout


def _call(method: str, url: str, token: str, body: object = None) -> dict[str, object]:
    request = urllib.request.Request(url, method=method)
    request.add_header("Authorization", f"Bearer {token}")
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, data, timeout=30) as answer:
        return json.load(answer)


def _first_signal(url: str, token: str) -> dict[str, object]:
    trader = _call("POST", f"{url}/api/v1/traders", token, {"name": "every bar", "filter": FILTER})["id"]
    _call("POST", f"{url}/api/v1/traders/{trader}/start", token)
    deadline = time.monotonic() + SIGNAL_WITHIN_S
    while time.monotonic() < deadline:
        found = _call("GET", f"{url}/api/v1/signals?trader_id={trader}&limit=1", token)["items"]
        if found:
            return found[0]
        time.sleep(0.5)
    raise SystemExit(f"no signal within {SIGNAL_WITHIN_S:g} s")


def main() -> None:
    print(_run("--version").strip())
    Path("filter.py").write_text(FILTER, encoding="utf-8")
    _run("check", "filter.py")
    command = [VYX, "up", "--port", "0", "--metrics-port", "off", "--market", "simulated", "--speed", "60"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        started = time.monotonic()
        line = service.stdout.readline()
        if not line.startswith("vyx ready ") or time.monotonic() - started > START_WITHIN_S:
            raise SystemExit(f"vyx up did not become ready: {line!r}")
        token = _run("token", "--user", USER, "--tier", "pro").strip()
        found = _first_signal(line.removeprefix("vyx ready ").strip(), token)
        print("signal", found["symbol"], found["triggered_at"])
        print(_run("migrate").strip())
    finally:
        service.send_signal(signal.SIGTERM)
        code = service.wait(STOP_WITHIN_S)
    if code != 0:
        raise SystemExit(f"vyx up ended with {code}")


main()
