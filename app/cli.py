"""
The command line. Each command is a few lines that call the part that does the work; errors are one plain sentence on stderr.

Exit codes: 0 done, 1 the thing asked for failed, 2 usage. Tracebacks only with ``--debug``.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from uuid import UUID

import msgspec
import psycopg
import typer
from rich.console import Console
from rich.table import Table

from app import VERSION, operations
from app.database_url import without_passwords
from app.errors import CommandFailed, Refused
from app.logging import configure
from app.settings import Settings, close_libpq_environment, embedded_key, known_variables, read_settings
from app.store import embedded

if TYPE_CHECKING:
    from app.preview.audit import Audit
    from sandbox.language.compiler import Compiled

AUDIT_LINES_MAX = 20  # of differing signals of one trader

cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes [env …] for markup and leaves it out
    pretty_exceptions_enable=False,
    help="Vyx screens every closed candle of every USDT pair with the filters its users write. `vyx up` starts everything.",
    epilog=f"Variables (docs/settings.md; `vyx doctor` shows those that are set): {', '.join(sorted(known_variables()))}.",
)

exports = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write what is stored to standard output."
)
cli.add_typer(exports, name="export")
INSTANTS = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M", "%Y-%m-%d"]


class ExportFormat(StrEnum):
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Embedded cluster and development secret. [env VYX_DATA_DIR, default .vyx]", show_default=False
    ),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address to listen on. [env VYX_HOST, default 127.0.0.1]", show_default=False),
]
Port = Annotated[
    int | None,
    typer.Option(
        help="Port to listen on, 0 picks a free one. [env VYX_PORT, default 8787]", show_default=False
    ),
]
MetricsPort = Annotated[
    str | None,
    typer.Option(
        help="Port for /metrics, 0 picks one, off disables. [env VYX_METRICS_PORT, default 9091 web, 9092 worker]",
        show_default=False,
    ),
]
MarketName = Annotated[
    str | None,
    typer.Option(
        "--market",
        help="auto, binance, simulated, or a directory or file of real candles. [env VYX_MARKET, default auto]",
        show_default=False,
    ),
]
Speed = Annotated[
    float | None,
    typer.Option(
        help="Market minutes per real minute; simulated and file markets only. [env VYX_SPEED, default 1]",
        show_default=False,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="First live instant of a file market. [env VYX_MARKET_FROM, default: when a quarter of the file has passed]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vyx {VERSION}")
        raise typer.Exit


@cli.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    pass


@cli.command()
def up(
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    metrics_port: MetricsPort = None,
    market: MarketName = None,
    speed: Speed = None,
    market_from: From = None,
) -> None:
    """Start everything: database (embedded unless DATABASE_URL is set), migrations, market, web and worker."""
    from app import up as supervisor  # noqa: PLC0415 each command imports what it runs: `vyx --help` stays quick

    settings = _settings(
        data_dir=data_dir,
        host=host,
        port=port,
        metrics_port=metrics_port,
        market=market,
        speed=speed,
        start=market_from,
    )
    supervisor.run(settings)


@cli.command()
def web(
    data_dir: DataDir = None, host: Host = None, port: Port = None, metrics_port: MetricsPort = None
) -> None:
    """Run one web process: the HTTP interface and the event streams. Any number of them may run."""
    from app.web import serve  # noqa: PLC0415

    settings = _with_database(_settings(data_dir=data_dir, host=host, port=port, metrics_port=metrics_port))
    operations.check_start(settings)
    asyncio.run(serve(settings, ready=lambda url: print(f"vyx web ready {url}", flush=True)))


@cli.command()
def worker(
    data_dir: DataDir = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
    market: MarketName = None,
    speed: Speed = None,
    market_from: From = None,
) -> None:
    """Run one worker process: it claims traders and screens them; one of all workers feeds the market data."""
    from app.worker import Worker  # noqa: PLC0415

    settings = _settings(
        9092,
        data_dir=data_dir,
        host=host,
        metrics_port=metrics_port,
        market=market,
        speed=speed,
        start=market_from,
    )
    settings = _with_database(settings)
    operations.check_start(settings)
    worker_process = Worker(settings)
    asyncio.run(worker_process.run(on_ready=lambda: print("vyx worker ready", flush=True)))


@cli.command()
def migrate(data_dir: DataDir = None) -> None:
    """Apply the migrations that are missing, and leave. Safe to run from everywhere at once."""
    from app.store import migrations  # noqa: PLC0415

    applied = migrations.migrate(_database_url(_settings(data_dir=data_dir)))
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@cli.command()
def token(
    user: Annotated[UUID, typer.Option(help="The user; its row is made when missing.")],
    tier: Annotated[str | None, typer.Option(help="Give the user this tier: free, pro, elite.")] = None,
    minutes: Annotated[int, typer.Option(min=1, max=525_600, help="How long the token is valid.")] = 60,
    data_dir: DataDir = None,
) -> None:
    """Print a token for development. Refuses where only Supabase's signing keys are configured."""
    from app import dev_data  # noqa: PLC0415

    settings = _settings(data_dir=data_dir)
    url = _database_url(settings)
    text = dev_data.make_token(settings, user, minutes=minutes)
    asyncio.run(dev_data.put_user(url, user, tier))
    print(text)


@cli.command()
def check(file: Annotated[Path, typer.Argument(help="A filter.")]) -> None:
    """Compile a filter: exit 0, or FILE:LINE:COL: CODE message for each mistake and exit 1."""
    from sandbox.language.compiler import FilterCompiler  # noqa: PLC0415

    source = _read_filter(file)
    with FilterCompiler() as compiler:
        compiled = compiler.compile(source)
    _print_diagnostics(file, compiled)
    if compiled.plan is None:
        raise typer.Exit(1)


@cli.command()
def preview(
    file: Annotated[Path, typer.Argument(help="A filter.")],
    bars: Annotated[
        int, typer.Option(min=1, max=1000, help="How many bars of its finest timeframe to look at.")
    ] = 200,
    symbols: Annotated[
        str | None, typer.Option(help="Pairs, separated by commas; all of them when left out.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run a filter over recent history: what it would have signalled, with a sparkline of each hit."""
    from app.preview import terminal  # noqa: PLC0415

    source = _read_filter(file)
    url = _database_url(_settings(data_dir=data_dir))
    wanted = None if symbols is None else [name.strip() for name in symbols.split(",") if name.strip()]
    compiled = terminal.compile_filter(source)
    if compiled.plan is None:
        _print_diagnostics(file, compiled)
        raise typer.Exit(1)
    _print_diagnostics(file, compiled, to=sys.stderr)
    asyncio.run(terminal.show(url, compiled.plan, bars=bars, symbols=wanted, as_json=as_json))


@exports.command("signals")
def export_signals(
    file_format: Annotated[ExportFormat, typer.Option("--format", help="What kind of file.")],
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=INSTANTS, help="Triggered at or after this instant, UTC."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=INSTANTS, help="Triggered at or before this instant, UTC.")
    ] = None,
    user: Annotated[UUID | None, typer.Option(help="Of this user alone; of all users when left out.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write signals to standard output as CSV, JSON or Parquet."""
    from app import export  # noqa: PLC0415
    from app.store.signals import Wanted  # noqa: PLC0415

    url = _database_url(_settings(data_dir=data_dir))
    wanted = Wanted(first=_utc(first), last=_utc(until))
    asyncio.run(export.write_signals(url, file_format.value, user, wanted, sys.stdout.buffer))


@cli.command()
def redeliver(
    since: Annotated[
        str | None,
        typer.Option(
            "--from", help="Only signals of slots, and deliveries queued, from this instant on (RFC 3339)."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only those through this instant.")] = None,
    signal: Annotated[
        int | None,
        typer.Option(help="Only deliveries of this signal, or the refused one of this id in dead_letters."),
    ] = None,
    destination: Annotated[UUID | None, typer.Option(help="Only deliveries to this destination.")] = None,
    expired: Annotated[bool, typer.Option("--expired", help="Deliveries that expired, too.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring back what failed for good: signals, jobs, and (where an option names them) deliveries, with their ids."""
    which = operations.Which(
        signal_id=signal,
        destination_id=destination,
        since=_instant(since),
        until=_instant(until),
        expired_too=expired,
    )
    done = asyncio.run(operations.redeliver(_database_url(_settings(data_dir=data_dir)), which))
    parts = [f"{done.jobs + done.signals + done.deliveries} redelivered"]
    if done.refused:
        parts.append(f"{done.refused} signals refused again (dead_letters says why)")
    if done.left - done.refused > 0:
        parts.append(
            f"{done.left - done.refused} left (not asked for, their machines are gone, or the same job waits already)"
        )
    print(", ".join(parts))


@cli.command()
def audit(
    trader: Annotated[UUID | None, typer.Option(help="One trader; all of them when left out.")] = None,
    hours: Annotated[float, typer.Option(min=0.02, max=24 * 90, help="How far back.")] = 24,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Replay stored slots and hold them against the signals: exit 1 when one differs."""
    url = _database_url(_settings(data_dir=data_dir))

    def show(found: Audit) -> None:
        if not as_json:
            _show_audit(found)

    found = asyncio.run(operations.audit(url, trader, hours=hours, on_audited=show))
    if as_json:
        print(msgspec.json.encode(found).decode())
    if any(one.differ for one in found):
        raise typer.Exit(1)


@cli.command()
def status(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Machines, leases, slots, lag, traders by state."""
    report = asyncio.run(operations.status(_database_url(_settings(data_dir=data_dir))))
    if as_json:
        print(json.dumps(report, default=str))
        return
    _show_status(report)


@cli.command()
def doctor(
    web_processes: Annotated[int, typer.Option("--web", min=1, max=1000, help="Web processes planned.")] = 2,
    worker_processes: Annotated[
        int, typer.Option("--workers", min=1, max=1000, help="Worker processes planned.")
    ] = 2,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Try everything that a deployment needs: exit 0 when nothing is wrong, else 1, with what to do about it."""
    from app.doctor import terminal  # noqa: PLC0415

    settings = _settings(data_dir=data_dir)
    if settings.database_url is not None or embedded.find(settings.data_dir) is not None:
        settings = _with_database(settings)
    if not terminal.show(settings, web=web_processes, workers=worker_processes, as_json=as_json):
        raise typer.Exit(1)


@cli.command()
def drain(
    machine: Annotated[str, typer.Argument(help="Its id, as `vyx status` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Take a machine out: it finishes the current slot, gives its traders back and claims no more."""
    asyncio.run(operations.drain(_database_url(_settings(data_dir=data_dir)), machine))
    print(f"{machine} is draining")


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP interface."""
    from app.http.application import openapi_document  # noqa: PLC0415

    print(json.dumps(openapi_document(), indent=2, ensure_ascii=False))


@cli.command()
def schema() -> None:
    """Print the database schema that the migrations make (sql/schema.sql is a copy that CI keeps current)."""
    print(operations.schema(), end="")


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} is no instant; write it like 2024-07-01T10:05:00Z.") from error
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text} has no time zone; write it like 2024-07-01T10:05:00Z.")
    return at


def _show_audit(found: Audit) -> None:
    print(
        f"{found.trader_id}: {found.live} live, {found.replayed} replayed, {len(found.differ)} differ,"
        f" {found.slots_accounted} of {found.slots_expected} slots accounted for"
    )
    for one in found.differ[:AUDIT_LINES_MAX]:
        print(f"  {one.symbol} at {one.triggered_at:%Y-%m-%dT%H:%M:%SZ}: only {one.only_in}")
    if len(found.differ) > AUDIT_LINES_MAX:
        print(f"  … and {len(found.differ) - AUDIT_LINES_MAX} more; --json has all")


def _settings(metrics_port_default: int = 9091, *, start: str | None = None, **flags: object) -> Settings:
    settings = read_settings(flags | {"from": start}, metrics_port_default=metrics_port_default)
    configure(settings.log_format)
    return settings


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.replace(tzinfo=UTC)


def _read_filter(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _print_diagnostics(file: Path, compiled: Compiled, *, to: TextIO | None = None) -> None:
    for found in compiled.diagnostics:
        hint = f" {found.hint}" if found.hint else ""
        print(f"{file}:{found.line}:{found.column}: {found.code} {found.message}{hint}", file=to)


def _database_url(settings: Settings) -> str:
    """The database to talk to: the one configured, else the embedded one that runs in the data directory."""
    url = settings.direct_database_url or embedded.find(settings.data_dir)
    if url is None:
        raise CommandFailed(
            f"No database runs in {settings.data_dir} and DATABASE_URL is not set; start `vyx up` first, or say where one runs: --data-dir FOLDER/.vyx, FOLDER being where vyx was started, or VYX_DATA_DIR."
        )
    return url


def _with_database(settings: Settings) -> Settings:
    from dataclasses import replace  # noqa: PLC0415

    if settings.database_url is not None:
        # `vyx up` hands its children the embedded database's address
        is_embedded = settings.database_url == embedded.find(settings.data_dir)
        return replace(settings, is_embedded=is_embedded)
    url = _database_url(settings)
    keys = settings.secret_keys or (embedded_key(settings.data_dir),)
    return replace(settings, database_url=url, direct_database_url=url, secret_keys=keys, is_embedded=True)


def _show_status(report: dict[str, Any]) -> None:
    console = Console()
    market = {name: _short(value) for name, value in report["ledger"].items()}
    condition, reason = market["condition"], report["ledger"]["reason"]
    console.print(condition + (f": {reason}" if reason else ""), highlight=False)
    console.print(
        "market {market}, its time {market_time}, newest slot {newest_closed}".format(**market),
        highlight=False,
    )
    console.print(
        "slots waiting for candles {open}, slots in outages {outage}".format(**market), highlight=False
    )
    console.print(
        "traders "
        + (", ".join(f"{state} {count}" for state, count in sorted(report["traders"].items())) or "none")
    )
    table = Table("machine", "boot", "state", "heartbeat s", "screened through", "lag s", "traders")
    for machine in report["machines"]:
        names = ("machine_id", "boot_id", "state", "heartbeat_age_s", "screened_through", "lag_s", "traders")
        table.add_row(*(_short(machine[name]) for name in names))
    console.print(table)


def _short(value: object) -> str:
    """Instants to the minute: what is screened are minutes."""
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def main() -> None:
    """The entry point: every refusal is one sentence and an exit code."""
    debug = "--debug" in sys.argv
    close_libpq_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that has no such letter shows its number
    try:
        cli(prog_name="vyx")
    except (CommandFailed, Refused, psycopg.Error) as error:
        if debug:
            raise
        print(f"vyx: {_sentence(error)}", file=sys.stderr)
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        os._exit(130)


NOT_MIGRATED = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
)


def _exit_code(error: Exception) -> int:
    return 2 if isinstance(error, NOT_MIGRATED) else getattr(error, "exit_code", 1)


def _sentence(error: Exception) -> str:
    if not isinstance(error, psycopg.Error):
        return str(error)
    if isinstance(error, NOT_MIGRATED):
        return "The database is not migrated, or by another version of Vyx; run `vyx migrate`."
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    said = without_passwords(
        said, [os.environ.get("DATABASE_URL"), os.environ.get("VYX_DIRECT_DATABASE_URL")]
    )
    if isinstance(error, psycopg.OperationalError):
        return f"The database cannot be reached: {said}"
    return f"The database refused: {said}"


if __name__ == "__main__":
    main()
