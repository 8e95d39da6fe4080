"""
Signals as files: CSV, JSON or Parquet, written piece by piece however many there are.

Decided here: the columns and how rows are read, a thousand at a time, each page by a connection of its own,
so that a slow reader holds none. ``values`` is one column of JSON text: which names are in it is up to each
filter.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from uuid import UUID

import msgspec

from app.store import signals
from app.store.pool import Connection, connect_direct
from app.store.signals import Signal, Wanted

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_ROWS = 1000
GROUP_ROWS = 10_000  # of a Parquet row group: some MB in memory
COLUMNS = (
    "id",
    "trader_id",
    "symbol",
    "timeframe",
    "triggered_at",
    "price",
    "late",
    "forming",
    "screened_at",
    "created_at",
    "values",
)

Connect = Callable[[], AbstractAsyncContextManager[Connection]]
Batches = AsyncIterator[list[Signal]]


class Writer(Protocol):
    """Turns batches of signals into the pieces of a file."""

    def __call__(self, batches: Batches) -> AsyncIterator[bytes]: ...


async def read_batches(connect: Connect, user_id: UUID | None, wanted: Wanted) -> Batches:
    """
    Signals in the order of their ids, of one user or (None) of all; what is written meanwhile may be
    missing.
    """
    after_id = 0
    while True:
        async with connect() as connection:
            batch = await signals.export_signals(
                connection, user_id, wanted, after_id=after_id, limit=PAGE_ROWS
            )
        if batch:
            yield batch
        if len(batch) < PAGE_ROWS:
            return
        after_id = batch[-1].id


async def write_csv(batches: Batches) -> AsyncIterator[bytes]:
    """RFC 4180 with a header line; instants as RFC 3339 UTC."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    yield _taken(text)
    async for batch in batches:
        writer.writerows([_text(value) for value in _row(signal)] for signal in batch)
        yield _taken(text)


async def write_json(batches: Batches) -> AsyncIterator[bytes]:
    """One array of the contract's Signal, an object a line."""
    before = b"[\n"
    async for batch in batches:
        yield before + b",\n".join(msgspec.json.encode(described(signal)) for signal in batch)
        before = b",\n"
    yield b"\n]\n" if before != b"[\n" else b"[]\n"


async def write_parquet(batches: Batches) -> AsyncIterator[bytes]:
    """
    A Parquet file, instants as UTC microseconds. Encoding runs in a thread.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    import pyarrow as pa  # noqa: PLC0415 30 MB that only this needs
    import pyarrow.parquet as pq  # noqa: PLC0415 see above

    schema = _schema()
    sink = _Sink()
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd")
    waiting: list[Signal] = []
    async for batch in batches:
        waiting += batch
        if len(waiting) >= GROUP_ROWS:
            await asyncio.to_thread(writer.write_table, _table(waiting, schema))
            waiting = []
            yield sink.take()
    if waiting:
        await asyncio.to_thread(writer.write_table, _table(waiting, schema))
    writer.close()
    yield sink.take()


WRITERS: dict[str, Writer] = {"csv": write_csv, "json": write_json, "parquet": write_parquet}


async def write_signals(
    url: str, file_format: str, user_id: UUID | None, wanted: Wanted, out: BinaryIO
) -> None:
    """Write signals of the database at *url* to *out*, a page at a time."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Connection]:
        yield connection

    async with await connect_direct(url, name="vyx-export") as connection:
        async for piece in WRITERS[file_format](read_batches(connect, user_id, wanted)):
            out.write(piece)
    out.flush()


def described(signal: Signal) -> dict[str, Any]:
    """As the contract's Signal."""
    return dict(zip(COLUMNS, (*_row(signal)[:-1], signal.shown), strict=True))


def _row(signal: Signal) -> tuple[Any, ...]:
    return (
        signal.id,
        signal.trader_id,
        signal.symbol,
        signal.timeframe,
        signal.triggered_at,
        signal.price,
        signal.late,
        signal.forming,
        signal.screened_at,
        signal.created_at,
        msgspec.json.encode(signal.shown).decode(),
    )


def _text(value: Any) -> Any:
    """As in JSON, without quotes: true, RFC 3339 with Z."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')


def _taken(text: io.StringIO) -> bytes:
    taken = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return taken


def _schema() -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415 see write_parquet

    instant = pa.timestamp("us", tz="UTC")
    types = [
        pa.int64(),
        pa.string(),
        pa.string(),
        pa.string(),
        instant,
        pa.float64(),
        pa.bool_(),
        pa.bool_(),
        instant,
        instant,
        pa.string(),
    ]
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


def _table(batch: list[Signal], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 see write_parquet

    columns = [list(column) for column in zip(*map(_row, batch), strict=True)]
    columns[1] = [str(trader_id) for trader_id in columns[1]]
    return pa.table(columns, schema=schema)


class _Sink:
    """What pyarrow writes into: pieces until they are taken, and the position in the file."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def write(self, piece: Any) -> int:
        taken = bytes(piece)
        self._pieces.append(taken)
        self._position += len(taken)
        return len(taken)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken
