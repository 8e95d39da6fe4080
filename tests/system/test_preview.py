"""
Preview and explain against a service that ran: a real `vyx up` replays half a day of 20 real pairs with the day's outage, and what it
stored is held against what a preview of the same bars finds, and against the explanation of every symbol and bar of an hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from app.store import embedded
from bench.service import Service, vyx
from tests.system.screens import SCREENS
from tests.system.service import all_signals, eventually

END = "2021-04-26T00:00:00Z"
TRADERS: list[tuple[str, dict[str, Any]]] = [
    ("oversold on volume", {}),
    ("breakdown in a downtrend", {}),
    ("ribbon, written as a loop", {}),
    ("enters above its average", {}),
    ("oversold on volume", {"frequency": {"cooldown_s": 1800}}),
]


@pytest.fixture(scope="module")
def ran(shared_data, tmp_path_factory):
    """The service at the end of its market, with what its traders signalled: (service, token, [(screen, id, signals)])."""
    folder = shared_data / "dumps" / "small-20pairs-36h-outage"
    flags = ("--market", str(folder), "--speed", "1500", "--from", "2021-04-25T03:30:00Z")
    screens = {screen.name: screen for screen in SCREENS}
    with Service(*flags, data_dir=tmp_path_factory.mktemp("data")) as service:
        token = service.token(str(uuid4()), "pro")
        traders = []
        for name, body in TRADERS:
            screen = screens[name]
            status, trader, _ = service.request(
                "POST",
                "/api/v1/traders",
                token,
                {"name": name, "filter": screen.source, **screen.body, **body},
            )
            assert status == 201, trader
            assert service.request("POST", f"/api/v1/traders/{trader['id']}/start", token)[0] == 202
            traders.append((screen, trader["id"]))

        def is_done(trader_id: str) -> bool:
            status = service.request("GET", f"/api/v1/traders/{trader_id}/status", token)[1]
            return (status["screened_through"] or "") >= END

        for _, trader_id in traders:
            eventually(
                lambda trader_id=trader_id: is_done(trader_id), within_s=90, what="screened to the end"
            )
        yield service, token, [(s, t, all_signals(service, token, t)) for s, t in traders]


def _covered(service: Service, token: str, trader_id: str) -> Callable[[str], bool]:
    ranges = service.request("GET", f"/api/v1/traders/{trader_id}/coverage", token)[1]["ranges"]
    return lambda at: any(r["from"] <= at <= r["through"] for r in ranges)


@pytest.mark.timeout(180)
def test_a_preview_of_a_day_is_the_days_signals(ran):
    """Symbols, bars, prices and shown values, over an outage and in two timeframes: the same rows, no more and no fewer."""
    service, token, traders = ran
    compared = 0
    for screen, trader_id, signals in traders[:3]:
        body = {
            "filter": screen.source,
            "bars": 1000,
            **{k: v for k, v in screen.body.items() if k == "symbols"},
        }
        status, preview, _ = service.request("POST", "/api/v1/execute-filter", token, body)
        assert status == 200, preview
        assert preview["trigger"] == screen.trigger
        assert not preview["truncated"]
        covered = _covered(service, token, trader_id)

        found = [
            (h["symbol"], h["triggered_at"], h["price"], h["values"])
            for h in preview["hits"]
            if covered(h["triggered_at"])
        ]

        stored = [(g["symbol"], g["triggered_at"], g["price"], g["values"]) for g in signals]
        assert sorted(found, key=repr) == sorted(stored, key=repr), screen.name
        compared += len(stored)
    assert compared > 100


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [3, 4], ids=["on_enter, three symbols", "cooldown, all symbols"])
def test_explain_agrees_with_the_signals_of_an_hour(ran, number):
    """For every symbol and minute: matched exactly where a signal is stored, and else one of the known reasons."""
    service, token, traders = ran
    _, trader_id, signals = traders[number]
    symbols = [s["symbol"] for s in service.request("GET", "/api/v1/market/symbols", token)[1]["items"]]
    stored = {(s["symbol"], s["triggered_at"]) for s in signals}
    begin = datetime.fromisoformat("2021-04-25T08:30:00Z")  # the outage ends at 08:45
    questions = [
        (symbol, f"{begin + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}")
        for minute in range(60)
        for symbol in symbols
    ]

    def ask(question: tuple[str, str]) -> dict[str, Any]:
        symbol, at = question
        status, told, _ = service.request(
            "GET", f"/api/v1/traders/{trader_id}/explain?symbol={symbol}&at={at}", token
        )
        assert status == 200, told
        return told

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, questions))

    reasons: dict[str, int] = {}
    for question, told in zip(questions, answers, strict=True):
        assert told["matched"] is (question in stored), told
        assert (told["reason"] is None) is told["matched"]
        kind = (told["reason"] or "matched").partition(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
        if kind == "condition false":
            assert any(term["value"] is False for term in told["terms"]), told
    expected = {
        3: {"matched", "condition false", "outage", "symbol not among the trader's", "not entering"},
        4: {"matched", "condition false", "outage", "cooldown"},
    }[number]
    assert expected <= set(reasons), reasons
    assert set(reasons) <= expected | {"bar missing", "not enough history"}, reasons


def test_a_preview_of_two_symbols_is_that_part_of_the_whole(ran):
    service, token, traders = ran
    source = traders[0][0].source
    _, whole, _ = service.request("POST", "/api/v1/execute-filter", token, {"filter": source, "bars": 500})
    _, part, _ = service.request(
        "POST",
        "/api/v1/execute-filter",
        token,
        {"filter": source, "bars": 500, "symbols": ["xrpusdt", "LTCUSDT"]},
    )

    assert part["symbols"] == 2
    assert part["hits"] == [h for h in whole["hits"] if h["symbol"] in ("XRPUSDT", "LTCUSDT")]


def test_the_command_line_finds_what_the_service_finds(ran, tmp_path):
    service, token, traders = ran
    file = tmp_path / "oversold.py"
    file.write_text(traders[0][0].source)
    _, asked, _ = service.request(
        "POST", "/api/v1/execute-filter", token, {"filter": traders[0][0].source, "bars": 300}
    )

    done = vyx("preview", str(file), "--bars", "300", "--json", "--data-dir", str(service.data_dir))

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {**found, "evaluated_ms": 0} == {**asked, "evaluated_ms": 0}
    table = vyx("preview", str(file), "--bars", "300", "--data-dir", str(service.data_dir))
    assert table.returncode == 0, table.stderr
    assert f"{found['hit_count']} hits in 300 bars of 1m, 20 pairs" in table.stdout
    assert any(tick in table.stdout for tick in "▁▂▃")


def test_the_command_line_says_what_is_wrong(ran, tmp_path):
    service, _, _ = ran
    wrong, right = tmp_path / "wrong.py", tmp_path / "right.py"
    wrong.write_text('b = bars("1m")\nsignal(b.close > nope)\n')
    right.write_text('b = bars("1m")\nsignal(b.close > b.open)\n')
    flags = ("--data-dir", str(service.data_dir))

    done = vyx("preview", str(wrong), *flags)
    assert (done.returncode, done.stdout.partition(" ")[0]) == (1, f"{wrong}:2:18:")
    done = vyx("preview", str(right), "--symbols", "NOPEUSDT", *flags)
    assert (done.returncode, done.stderr) == (1, "vyx: The market has no NOPEUSDT.\n")
    assert vyx("preview", str(right), "--bars", "0", *flags).returncode == 2
    assert vyx("preview", str(right), "--data-dir", str(tmp_path / "none")).returncode == 1


def test_dead_letters_are_redelivered_and_worked_off(ran):
    """Those of machines that are gone stay; a preview nobody waits for any more is worked off without an answer."""
    service, _, _ = ran
    with psycopg.connect(embedded.find(service.data_dir), autocommit=True) as connection:
        connection.execute("set search_path to procrastinate")
        connection.execute(
            """insert into procrastinate_jobs (queue_name, task_name, args, status) values
               ('preview', 'preview', '{}', 'failed'),
               ('preview', 'preview', '{}', 'aborted'),
               ('m.999999', 'screen', '{}', 'failed')"""
        )

        done = vyx("redeliver", "--data-dir", str(service.data_dir))

        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("2 redelivered, 1 left")
        eventually(
            lambda: (
                connection.execute(
                    "select count(*) from procrastinate_jobs where task_name = 'preview'"
                ).fetchone()
                == (0,)
            ),
            within_s=20,
            what="the redelivered previews were worked off",
        )
        assert connection.execute("select kind, about from public.dead_letters").fetchall() == [
            ("job", "screen on m.999999 {}")
        ]
