"""`vyx up` anywhere: an awkward folder, an awkward shell, and after kill -9 of anything."""

from __future__ import annotations

import os
import signal

import psutil
import psycopg
import pytest

from app.store import embedded
from bench.service import Service, vyx
from tests.system.service import eventually

SHELL = {
    "LC_ALL": "xx_YY.UTF-8",
    "PYTHONIOENCODING": "ascii",
    "PGHOST": "nowhere.invalid",
    "PGPORT": "1",
    "PGSERVICE": "none",
    "PGOPTIONS": "-c search_path=nowhere",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Kathmandu",
    "PGCLIENTENCODING": "LATIN1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
}


@pytest.fixture
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("w") / "ä b %41?&#" / ("long" * 30)


@pytest.fixture
def service(data_dir):
    with Service("--market", "simulated", "--speed", "60", data_dir=data_dir, **SHELL) as running:
        yield running


def _newest_slot(service):
    return service.request("GET", "/health")[1]["market"]["time"]


def _postgres(service):
    """The postmaster: the child of `vyx up` of that name."""
    children = psutil.Process(service.process.pid).children()
    return next((child for child in children if child.name() == "postgres"), None)


def test_it_starts_in_any_folder_and_shell_and_survives_its_database(service, data_dir):
    token = service.token("11111111-1111-4111-8111-111111111111")
    assert service.request("GET", "/api/v1/me", token)[0] == 200
    assert vyx("status", "--data-dir", str(data_dir), **SHELL).returncode == 0
    before = _postgres(service)

    before.send_signal(signal.SIGKILL)

    eventually(lambda: (new := _postgres(service)) and new.pid != before.pid, within_s=30, what="restarted")
    then = eventually(lambda: _ready(service) and _newest_slot(service), within_s=60, what="ready")
    eventually(lambda: _ready(service) and _newest_slot(service) > then, within_s=60, what="market went on")
    assert service.process.poll() is None


def _ready(service):
    return service.request("GET", "/health/ready")[0] == 200


def test_nothing_outlives_a_killed_up_and_the_next_one_starts(tmp_path):
    first = Service("--market", "simulated", "--speed", "60", data_dir=tmp_path)
    family = psutil.Process(first.process.pid).children(recursive=True)
    os.kill(first.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []

    with Service("--market", "simulated", "--speed", "60", data_dir=tmp_path) as second:
        with psycopg.connect(embedded.find(tmp_path)) as connection:
            assert connection.execute("show timezone").fetchone() == ("UTC",)
        database = _postgres(second)
    assert not database.is_running()
    first.process.wait()
    first.__exit__()
