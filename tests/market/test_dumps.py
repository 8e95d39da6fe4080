import gzip
import zipfile

import pytest
from structlog.testing import capture_logs

from app.market.dumps import read_dumps
from app.market.errors import DumpInvalid

OPEN = 1_619_265_600_000


def line(minute=0, *, scale=1, price="1.10"):
    opens = (OPEN + minute * 60_000) * scale
    closes = opens + 60_000 * scale - 1
    return f"{opens},{price},1.20,1.00,1.15,10.5,{closes},12.075,7,0.0,0.0,0"


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(lines) + "\n")


def test_zip_csv_and_gz_files_are_read_alike(tmp_path):
    body = (line(0) + "\n" + line(1) + "\n").encode()
    with zipfile.ZipFile(tmp_path / "AUSDT-1m-2021-04.zip", "w") as archive:
        archive.writestr("AUSDT-1m-2021-04.csv", body)
    (tmp_path / "BUSDT-1m-2021-04.csv").write_bytes(body)
    (tmp_path / "币安人生USDT-1m-2021-04.csv.gz").write_bytes(gzip.compress(body))
    (tmp_path / "AUSDT-1m-2021-04.zip.CHECKSUM").write_text("abc")

    candles = read_dumps(tmp_path)

    assert candles.symbols == ("AUSDT", "BUSDT", "币安人生USDT")
    assert candles.open_time.tolist() == [OPEN, OPEN + 60_000] * 3
    assert next(candles.rows())[2:] == (1.1, 1.2, 1.0, 1.15, 10.5, 12.075, 7)


def test_a_single_file_is_a_market(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04.csv", line())

    assert len(read_dumps(tmp_path / "AUSDT-1m-2021-04.csv")) == 1


def test_a_header_line_is_passed_over(tmp_path):
    write(
        tmp_path, "AUSDT-1m-2021-04.csv", "open_time,open,high,low,close,volume,close_time,a,b,c,d,e", line()
    )

    assert read_dumps(tmp_path).open_time.tolist() == [OPEN]


def test_microseconds_become_milliseconds(tmp_path):
    write(tmp_path, "AUSDT-1m-2025-01.csv", line(5, scale=1000))

    assert read_dumps(tmp_path).open_time.tolist() == [OPEN + 300_000]


def test_several_files_of_a_symbol_are_joined_and_repeats_dropped(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(2), line(1))
    (tmp_path / "daily").mkdir()
    write(tmp_path / "daily", "AUSDT-1m-2021-04-24.csv", line(0), line(1))

    assert read_dumps(tmp_path).open_time.tolist() == [OPEN, OPEN + 60_000, OPEN + 120_000]


def test_numbers_may_have_leading_zeros(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(price="01.1"))

    assert read_dumps(tmp_path).open.tolist() == [1.1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(1).replace("1.20", "abc"), "could not convert string to float: b'abc'"),
        (line(1) + ",0", "13 columns where a dump has 12"),
        (line(1).rpartition(",")[0], "11 columns where a dump has 12"),
        ("", "1 columns where a dump has 12"),
        (line(1).replace(",7,", ",7.5,"), "trade count 7.5 is not a count"),
        (line(1).replace(",7,", ",inf,"), "trade count inf is not a count"),
    ],
)
def test_a_bad_line_is_named_with_what_to_do(tmp_path, bad, reason):
    write(tmp_path, "AUSDT-1m-2021-04.csv", "open_time,open,…", line(0), bad, line(2))

    with pytest.raises(DumpInvalid) as refused:
        read_dumps(tmp_path)

    assert "AUSDT-1m-2021-04.csv line 3: " in str(refused.value)
    assert reason in str(refused.value)
    assert "take that line out" in str(refused.value)


def test_a_line_too_long_beside_one_too_short_is_found(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(0) + ",0", line(1).rpartition(",")[0])

    with pytest.raises(DumpInvalid, match="line 1: 13 columns"):
        read_dumps(tmp_path)


def test_a_broken_zip_is_named(tmp_path):
    (tmp_path / "AUSDT-1m-2021-04.zip").write_bytes(b"PK\x03\x04 cut off")

    with pytest.raises(DumpInvalid, match=r"AUSDT-1m-2021-04\.zip cannot be read: .*Fetch it again"):
        read_dumps(tmp_path)


def test_a_truncated_gz_is_named(tmp_path):
    (tmp_path / "AUSDT-1m-2021-04.csv.gz").write_bytes(gzip.compress(line().encode())[:-12])

    with pytest.raises(DumpInvalid, match=r"AUSDT-1m-2021-04\.csv\.gz cannot be read"):
        read_dumps(tmp_path)


def test_a_zip_with_two_tables_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "AUSDT-1m-2021-04.zip", "w") as archive:
        archive.writestr("a.csv", line())
        archive.writestr("b.csv", line())

    with pytest.raises(DumpInvalid, match=r"holds 2 \.csv members"):
        read_dumps(tmp_path)


def test_of_a_month_and_its_days_that_overlap_the_months_file_counts(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04-24.csv", line(0), line(1))
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(0, price="1.05"))

    assert read_dumps(tmp_path).open.tolist() == [1.05, 1.1]


def test_two_files_of_a_kind_that_disagree_are_both_named(tmp_path):
    (tmp_path / "other").mkdir()
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(0))
    write(tmp_path / "other", "AUSDT-1m-2021-04.csv", line(0, price="1.05"))

    with pytest.raises(
        DumpInvalid, match=r"2021-04\.csv and .*2021-04\.csv disagree about AUSDT at 2021-04-24T12:00Z"
    ):
        read_dumps(tmp_path)


@pytest.mark.parametrize(
    "impossible",
    [
        line(1).replace("1.20", "0.90"),
        line(1).replace("1.20", "nan"),
        line(1).replace("1.00", "-1.00"),
        line(1).replace("10.5", "-10.5"),
        line(1).replace(str(OPEN + 60_000), str(OPEN + 60_007)),
    ],
)
def test_a_candle_that_cannot_be_is_set_aside_and_counted(tmp_path, impossible):
    write(tmp_path, "AUSDT-1m-2017-12.csv", line(0), impossible, line(2))

    with capture_logs() as logs:
        candles = read_dumps(tmp_path)

    assert candles.open_time.tolist() == [OPEN, OPEN + 120_000]
    assert [(entry["set_aside"], entry["of"]) for entry in logs] == [(1, 3)]


def test_a_candle_whose_close_time_comes_too_early_is_taken_and_counted(tmp_path):
    """The exchange's own files of 2017-12 to 2018-02 cut minutes short at their outages; what they hold is right."""
    write(tmp_path, "AUSDT-1m-2018-02.csv", line(0), line(1).replace(str(OPEN + 119_999), str(OPEN + 90_000)))

    with capture_logs() as logs:
        candles = read_dumps(tmp_path)

    assert candles.open_time.tolist() == [OPEN, OPEN + 60_000]
    assert [entry["taken_with_another_close_time"] for entry in logs] == [1]


def test_a_file_of_nothing_but_impossible_candles_is_an_error(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(0).replace("1.20", "0.90"))

    with pytest.raises(
        DumpInvalid, match=r"no possible candle; the first one is wrong because high 0\.9 is below low 1"
    ):
        read_dumps(tmp_path)


def test_files_as_people_have_them(tmp_path):
    """A byte order mark, CRLF, what macOS adds, checksums, lower-case names, rows out of order, large counts: all read."""
    body = "\r\n".join([line(2), line(0).replace(",7,", ",4294967296,"), line(1)])
    write(tmp_path, "ausdt-1m-2021-04.csv", "\ufeffopen_time,open,…\r", body)
    (tmp_path / "._AUSDT-1m-2021-04.csv").write_bytes(b"\0\x05\x16\x07")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._AUSDT-1m-2021-04.zip").write_bytes(b"\0")
    (tmp_path / "BUSDT-1m-2021-04.zip.CHECKSUM").write_text("abc")
    with zipfile.ZipFile(tmp_path / "BUSDT-1m-2021-04.zip", "w") as archive:
        archive.writestr("BUSDT-1m-2021-04.csv", line(0))
        archive.writestr("__MACOSX/._BUSDT-1m-2021-04.csv", "\0")

    candles = read_dumps(tmp_path)

    assert candles.symbols == ("AUSDT", "BUSDT")
    assert candles.open_time.tolist() == [OPEN, OPEN + 60_000, OPEN + 120_000, OPEN]
    assert candles.trades.tolist() == [4_294_967_296, 7, 7, 7]


@pytest.mark.parametrize(
    "name",
    ["BTCUSD_PERP-1m-2024-07.csv", "BTCUSDT_240628-1m-2024-06.csv", "futures/um/BTCUSDT-1m-2024-07.csv"],
)
def test_futures_are_refused_by_name(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path, name, line(0))

    with pytest.raises(DumpInvalid, match="holds futures, and Vyx screens the spot market"):
        read_dumps(tmp_path)


def test_a_market_without_a_usdt_pair_is_an_error_at_once(tmp_path):
    write(tmp_path, "ETHBTC-1m-2021-04.csv", line(0))

    with pytest.raises(DumpInvalid, match="no pair quoted in USDT, only ETHBTC"):
        read_dumps(tmp_path)


def test_other_intervals_are_refused_when_there_is_no_1m(tmp_path):
    write(tmp_path, "AUSDT-5m-2021-04.csv", line())

    with pytest.raises(DumpInvalid, match=r"no 1m candles, only other intervals \(1 × 5m\)"):
        read_dumps(tmp_path)


def test_other_intervals_beside_1m_are_left_out(tmp_path):
    write(tmp_path, "AUSDT-5m-2021-04.csv", "nonsense")
    write(tmp_path, "AUSDT-1m-2021-04.csv", line())

    assert len(read_dumps(tmp_path)) == 1


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder.rmdir(), "does not exist"),
        (lambda _: None, "holds no dump file"),
        (lambda folder: write(folder, "prices.csv", line()), "its symbol is unknown"),
        (lambda folder: write(folder, "AUSDT-1m-2021-04.csv", "open_time,open"), "holds no candle"),
    ],
)
def test_a_market_without_candles_is_refused(tmp_path, prepare, message):
    folder = tmp_path / "market"
    folder.mkdir()
    prepare(folder)

    with pytest.raises(DumpInvalid, match=message):
        read_dumps(folder)


def test_the_real_dumps_are_read_whole(data):
    candles = read_dumps(data / "dumps" / "week-91pairs-two-outages")

    assert (len(candles), len(candles.symbols)) == (877_796, 91)
