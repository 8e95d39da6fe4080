"""The command line as a stranger meets it: one plain sentence and an exit code for everything that can go wrong."""

from __future__ import annotations

import gzip
import json
from uuid import uuid4

import pytest

from app import VERSION
from app.settings import known_variables
from bench.service import ROOT, Service, vyx


def _minute(i, price=100.0, *, high=None):
    t = 1_619_265_600_000 + i * 60_000
    top = price * 1.001 if high is None else high
    return f"{t},{price},{top},{price * 0.999},{price},5.0,{t + 59_999},500,3,2,200,0"


def _dump(folder, symbol, rows):
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / f"{symbol}-1m-2021-04.csv.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")


def _one_sentence(done, exit_code):
    assert done.returncode == exit_code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    for symbol, base in (("AAAUSDT", 10.0), ("BBBUSDT", 20.0)):
        _dump(folder, symbol, [_minute(i, base + i % 7) for i in range(400)])
    with Service(
        "--market", str(folder), "--speed", "600", data_dir=tmp_path_factory.mktemp("data")
    ) as running:
        yield running


def test_check_prints_file_line_column_code_and_message(tmp_path):
    file = tmp_path / "typo.py"
    file.write_text('b = bars("1m")\nsignal(ta.rsi(b.clos, 14) < 30)\n')
    done = vyx("check", str(file))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{file}:2:15: V102 bars() has no field 'clos'.")


def test_check_accepts_every_example():
    for file in sorted((ROOT / "docs" / "filters").glob("*.py"))[:3]:
        assert vyx("check", str(file)).returncode == 0


def test_check_of_a_file_that_is_not_there_says_so(tmp_path):
    assert "cannot be read" in _one_sentence(vyx("check", str(tmp_path / "none.py")), 1)


def test_a_wrong_setting_stops_the_start_and_names_the_variable(tmp_path):
    done = vyx("up", "--data-dir", str(tmp_path / "d"), VYX_LEASE_TTL_S="soon")
    assert "VYX_LEASE_TTL_S must be a number, got 'soon'." in _one_sentence(done, 2)
    assert not (tmp_path / "d").exists()


def test_help_names_every_variable_and_the_default_of_each_flag():
    said = vyx("--help").stdout
    assert [name for name in known_variables() if name not in said] == []
    assert "[env VYX_HOST, default 127.0.0.1]" in " ".join(vyx("up", "--help").stdout.split())


def test_the_version_is_printed():
    assert vyx("--version").stdout == f"vyx {VERSION}\n"


def test_a_speed_for_binance_is_a_contradiction(tmp_path):
    assert "VYX_SPEED" in _one_sentence(
        vyx("up", "--data-dir", str(tmp_path), "--market", "binance", "--speed", "2"), 2
    )


def test_a_line_that_cannot_be_read_is_named_with_its_file(tmp_path):
    folder = tmp_path / "market"
    _dump(folder, "AAAUSDT", [_minute(0), _minute(1), _minute(2, high="high"), _minute(3)])
    said = _one_sentence(
        vyx(
            "up",
            "--data-dir",
            str(tmp_path / "d"),
            "--port",
            "0",
            "--metrics-port",
            "off",
            "--market",
            str(folder),
        ),
        1,
    )
    assert "AAAUSDT-1m-2021-04.csv.gz" in said
    assert "line 3" in said


def test_a_folder_without_candles_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    said = _one_sentence(
        vyx(
            "up",
            "--data-dir",
            str(tmp_path / "d"),
            "--port",
            "0",
            "--metrics-port",
            "off",
            "--market",
            str(tmp_path / "empty"),
        ),
        1,
    )
    assert "holds no candle files" in said


def test_commands_without_a_database_say_how_to_get_one(tmp_path):
    for command in (
        ["status"],
        ["token", "--user", str(uuid4())],
        ["web", "--port", "0"],
        ["worker"],
        ["migrate"],
    ):
        assert "start `vyx up` first" in _one_sentence(vyx(*command, "--data-dir", str(tmp_path)), 1), command


def test_an_unreachable_database_is_one_sentence(tmp_path):
    done = vyx("migrate", "--data-dir", str(tmp_path), DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert "The database cannot be reached" in _one_sentence(done, 1)


def test_a_token_is_refused_where_only_signing_keys_are_configured(service):
    done = vyx(
        "token",
        "--user",
        str(uuid4()),
        "--data-dir",
        str(service.data_dir),
        SUPABASE_URL="https://project.supabase.co",
    )
    assert "signing keys" in _one_sentence(done, 1)


def test_an_unknown_tier_names_the_known_ones(service):
    done = vyx("token", "--user", str(uuid4()), "--tier", "platinum", "--data-dir", str(service.data_dir))
    assert "there is no tier platinum; known are free, pro, elite" in _one_sentence(done, 1)


def test_status_is_a_table_and_json(service):
    table = vyx("status", "--data-dir", str(service.data_dir))
    assert table.returncode == 0
    assert "alive" in table.stdout
    report = json.loads(vyx("status", "--json", "--data-dir", str(service.data_dir)).stdout)
    assert report["ledger"]["market"].startswith("files market")
    assert [m["state"] for m in report["machines"]] == ["alive"]


def test_a_second_up_on_the_same_data_directory_is_refused(service):
    done = vyx("up", "--data-dir", str(service.data_dir), "--port", "0", "--metrics-port", "off")
    assert "already runs" in _one_sentence(done, 1)


def test_migrating_a_current_database_does_nothing(service):
    assert vyx("migrate", "--data-dir", str(service.data_dir)).stdout == "nothing to do\n"


def test_openapi_describes_every_path_of_the_contract():
    document = json.loads(vyx("openapi").stdout)
    assert document["openapi"].startswith("3.1")
    assert {
        "/api/v1/traders",
        "/api/v1/traders/{trader_id}/start",
        "/api/v1/signals",
        "/api/v1/stream",
        "/api/v1/me",
        "/health/ready",
    } <= set(document["paths"])


def test_a_market_that_ended_stands_still_and_says_so(service):
    """When its candles end the processes stay up."""
    from tests.system.service import eventually

    health = eventually(
        lambda: (h := service.request("GET", "/health")[1])["market"]["ended"] and h,
        within_s=90,
        what="the market ended",
    )
    assert health["market"]["time"] == "2021-04-24T18:40:00Z"
    assert service.process.poll() is None
