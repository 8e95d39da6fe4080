"""
Reader of the exchange's public dump files: real 1m candles from a directory or a single file.

A file is ``SYMBOL-INTERVAL-<anything>.zip``, ``.csv`` or ``.csv.gz`` with 12 columns, no or one header line, and times
in milliseconds or (spot dumps since 2025-01-01) microseconds. A symbol may have several files, which may overlap: of
two different copies of a candle the month's file counts, which is published after its days'. Decided here: which files
are taken, how a line becomes a candle, and that nothing is passed over in silence: a candle that cannot be is set aside
and counted (the exchange's own files of 2017-12 to 2018-02 hold a thousand in a month), a line that cannot be read ends
the reading with an error that names it and says what to do.

A file is read by ``numpy.loadtxt`` (0.44 µs a line; reading it as one JSON array with msgspec took the same); only a
file on which that fails is read line by line, to find the line.
"""

import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from app.domain import timeframes
from app.market import errors
from app.market.candles import COLUMNS, Candle, Candles, fault_of
from app.market.universe import QUOTE

log = structlog.get_logger(__name__)

SUFFIXES: Final = (".zip", ".csv", ".csv.gz")
_NAME: Final = re.compile(r"(?P<symbol>[^-]+)-(?P<interval>\d+[smhdwM]o?)(-.*)?(\.zip|\.csv|\.csv\.gz)")
_WIDTH: Final = 12
# A time of 1e14 ms lies in the year 5138: anything above is microseconds.
_MICROSECONDS_FROM: Final = 10**14
_EXACT_MAX: Final = 2**53  # a float64 holds whole numbers up to here
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FUTURES: Final = {"futures", "option"}  # folders of the exchange's own layout
_MONTH: Final = re.compile(r"-\d{4}-\d{2}(\.zip|\.csv|\.csv\.gz)$")


def read_dumps(path: Path) -> Candles:
    """
    All 1m candles of a dump file, or of every dump file below a directory.

    Returns:
        Valid candles by symbol (alphabetical), then open time, each (symbol, open time) once. Equal rows that
        stand in two files (a day's and its month's) count once. Trade counts and quote volumes are as the
        files say.

    Raises:
        DumpInvalid: *path* does not exist, holds no 1m candles, or a file or line of it cannot be used; the
            message names the file and, where there is one, the line, and says what to do.
    """
    files = _dump_files(path)
    batches: list[Candles] = []
    origins: list[tuple[Path, int]] = []
    for file, symbol in files:
        batch = _read_file(file, symbol)
        batches.append(batch)
        origins.append((file, len(batch)))
    candles = Candles.concat(batches)
    if not len(candles):
        raise errors.DumpInvalid(
            f"{path} holds no candle: its files are empty. Put dump files with rows there."
        )
    file_of_row = np.repeat(np.arange(len(files)), [count for _, count in origins])
    return _each_once(candles, file_of_row, [file for file, _ in origins])


def _dump_files(path: Path) -> list[tuple[Path, str]]:
    """The 1m files to read with their symbols, ordered by symbol, then name."""
    if not path.exists():
        raise errors.DumpInvalid(f"{path} does not exist. Name a directory of dump files, or one such file.")
    found = _candidates(path) if path.is_dir() else [path]
    if not found:
        raise errors.DumpInvalid(
            f"{path} holds no dump file. Put files named like BTCUSDT-1m-2024-07.zip there."
        )
    named = [(file, _named(file, path)) for file in found]
    files = [(file, name["symbol"].upper()) for file, name in named if name["interval"] == "1m"]
    others = Counter(name["interval"] for _, name in named if name["interval"] != "1m")
    intervals = ", ".join(f"{count} × {interval}" for interval, count in sorted(others.items()))
    if not files:
        raise errors.DumpInvalid(
            f"{path} holds no 1m candles, only other intervals ({intervals}). Vyx builds every timeframe from 1m: "
            "fetch the 1m dumps of the same days."
        )
    if not any(symbol.endswith(QUOTE) for _, symbol in files):
        names = ", ".join(sorted({symbol for _, symbol in files})[:5])
        raise errors.DumpInvalid(
            f"{path} holds no pair quoted in {QUOTE}, only {names}. Vyx screens {QUOTE} pairs: fetch some of those."
        )
    if others:
        log.warning("dump files of other intervals are not read", path=str(path), files=intervals)
    return sorted(files, key=lambda item: (item[1], item[0]))


def _candidates(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name.endswith(SUFFIXES) and not _is_of_macos(file.as_posix())
    )


def _named(file: Path, market: Path) -> re.Match[str]:
    """What the name of a file says: symbol and interval."""
    name = _NAME.fullmatch(file.name)
    if name is None:
        raise errors.DumpInvalid(
            f"{file} is not named SYMBOL-INTERVAL-….zip, .csv or .csv.gz, so its symbol is unknown. "
            "Rename it, like BTCUSDT-1m-2024-07.zip, or take it away."
        )
    if "_" in name["symbol"] or _FUTURES & set(file.relative_to(market.parent).parts):
        raise errors.DumpInvalid(
            f"{file} holds futures, and Vyx screens the spot market. Take it away, and fetch the files below data/spot."
        )
    return name


def _is_of_macos(name: str) -> bool:
    """What the archiver of macOS adds to an archive or a folder: a shadow of each file, with the same ending."""
    return "__MACOSX/" in name or name.rpartition("/")[2].startswith("._")


def _read_file(file: Path, symbol: str) -> Candles:
    text = _text_of(file).removeprefix(_BYTE_ORDER_MARK).replace(b"\r", b"").strip(b"\n")
    header_lines = 0
    if text[:1].isalpha() or text[:1] == b'"':
        header_lines = 1
        text = text.partition(b"\n")[2]
    if not text:
        return Candles.empty("1m", (symbol,))
    table = _table_of(text)
    if table is None:
        table = _table_line_by_line(text, file, header_lines)
    unit = np.where(table[:, 0] >= _MICROSECONDS_FROM, 1_000, 1)
    candles = Candles.of(
        "1m",
        (symbol,),
        {
            "symbol": np.zeros(len(table), np.int32),
            # Exact: a float64 holds whole numbers up to 9e15, and microseconds of today are 2e15.
            "open_time": table[:, 0].astype(np.int64) // unit,
            "open": table[:, 1],
            "high": table[:, 2],
            "low": table[:, 3],
            "close": table[:, 4],
            "volume": table[:, 5],
            "quote_volume": table[:, 7],
            "trades": table[:, 8],
        },
    )
    return _possible(candles, file, cut_short=int((~_in_place(table)).sum()))


def _in_place(table: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each row's close time is that of a 1m candle that opened when it says."""
    span = table[:, 6] - table[:, 0]
    inside: NDArray[np.bool_] = np.where(
        table[:, 0] >= _MICROSECONDS_FROM, span == 59_999_999, span == 59_999
    )
    return inside


def _possible(candles: Candles, file: Path, *, cut_short: int) -> Candles:
    """The candles that can be; how many cannot, and how many the exchange cut short (those count), is said."""
    valid = candles.valid()
    refused = int((~valid).sum())
    if refused == len(candles):
        why = fault_of(next(candles.rows()))
        raise errors.DumpInvalid(
            f"{file} holds no possible candle; the first one is wrong because {why}. Fetch the file again."
        )
    if refused or cut_short:
        first: Candle | None = next(candles.take(~valid).rows(), None)
        log.warning(
            "candles set aside",
            file=str(file),
            set_aside=refused,
            of=len(candles),
            first=None if first is None else fault_of(first),
            taken_with_another_close_time=cut_short,
        )
    return candles.take(valid) if refused else candles


def _text_of(file: Path) -> bytes:
    try:
        if file.name.endswith(".zip"):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                members = [name for name in names if name.endswith(".csv") and not _is_of_macos(name)]
                if len(members) != 1:
                    raise errors.DumpInvalid(
                        f"{file} holds {len(members)} .csv members where a dump holds one. Fetch it again, or take it away."
                    )
                return archive.read(members[0])
        if file.name.endswith(".gz"):
            return gzip.decompress(file.read_bytes())
        return file.read_bytes()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise errors.DumpInvalid(
            f"{file} cannot be read: {error}. Fetch it again, or take it away."
        ) from error


def _table_of(text: bytes) -> NDArray[np.float64] | None:
    """The numbers of *text*, shape (lines, 12); None unless every line is 12 plain numbers."""
    try:
        table = np.loadtxt(io.BytesIO(text), delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None
    if table.shape != (text.count(b"\n") + 1, _WIDTH):  # it passes over empty lines
        return None
    times = table[:, 0]
    whole = (table[:, 8] == np.floor(table[:, 8])) & (np.abs(table[:, 8]) <= _EXACT_MAX)
    return table if whole.all() and (times == np.floor(times)).all() else None


def _table_line_by_line(text: bytes, file: Path, header_lines: int) -> NDArray[np.float64]:
    """
    The same table the slow way, which accepts every spelling of a number and names the line it fails on.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(text.split(b"\n"), header_lines + 1):
        fields = line.split(b",")
        if len(fields) != _WIDTH:
            raise _bad_line(file, number, f"{len(fields)} columns where a dump has {_WIDTH}")
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            raise _bad_line(file, number, str(error)) from error
        if row[0] % 1 or abs(row[0]) > _EXACT_MAX:
            raise _bad_line(
                file, number, f"open time {fields[0].decode(errors='replace')} is not a whole number"
            )
        if row[8] % 1 or abs(row[8]) > _EXACT_MAX:
            raise _bad_line(file, number, f"trade count {fields[8].decode(errors='replace')} is not a count")
        rows.append(row)
    return np.array(rows)


def _bad_line(file: Path, line: int, reason: str) -> errors.DumpInvalid:
    return errors.DumpInvalid(f"{file} line {line}: {reason}. Fetch the file again, or take that line out.")


def _each_once(candles: Candles, file_of_row: NDArray[np.intp], files: list[Path]) -> Candles:
    """The candles in order without repeats; of differing copies that of the month's file, two of one kind are an error."""
    is_month = np.array([_MONTH.search(file.name) is not None for file in files], np.bool_)[file_of_row]
    order = np.lexsort((~is_month, candles.open_time, candles.symbol))
    rows = candles.take(order)
    again = np.zeros(len(rows), np.bool_)
    again[1:] = (rows.symbol[1:] == rows.symbol[:-1]) & (rows.open_time[1:] == rows.open_time[:-1])
    if not again.any():
        return rows
    repeats = np.flatnonzero(again)
    differs = np.zeros(len(repeats), np.bool_)
    for name in COLUMNS[2:]:
        column = getattr(rows, name)
        differs |= column[repeats] != column[repeats - 1]
    kinds = is_month[order]
    undecided = repeats[differs & (kinds[repeats] == kinds[repeats - 1])]
    if len(undecided):
        row = int(undecided[0])
        when = timeframes.instant(int(rows.open_time[row])).strftime("%Y-%m-%dT%H:%MZ")
        one, other = (files[file_of_row[order[i]]] for i in (row - 1, row))
        raise errors.DumpInvalid(
            f"{other} and {one} disagree about {rows.symbols[rows.symbol[row]]} at {when}. "
            "Keep the newer file (the exchange corrects published candles) and take the other away."
        )
    if differs.any():
        log.warning("a month's file was taken where its days' files differ", candles=int(differs.sum()))
    return rows.take(~again)
