import gzip
import zipfile

import pytest

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
        (line(1).replace("1.20", "0.90"), "high 0.9 is below low 1"),
        (line(1).replace("1.20", "nan"), "high is nan, which is not above 0"),
        (line(1).replace("1.00", "-1.00"), "low is -1, which is not above 0"),
        (line(1).replace("10.5", "-10.5"), "volume is -10.5, which is not 0 or more"),
        (line(1).replace("1.20", "abc"), "could not convert string to float: b'abc'"),
        (line(1) + ",0", "13 columns where a dump has 12"),
        (line(1).rpartition(",")[0], "11 columns where a dump has 12"),
        ("", "1 columns where a dump has 12"),
        (line(1).replace(str(OPEN + 60_000), str(OPEN + 60_001)), "are not those of a 1m candle"),
        (line(1).replace(",7,", ",7.5,"), "trade count 7.5 is not a count"),
        (line(1).replace(",7,", ",inf,"), "trade count inf is not a count"),
        (
            line(1)
            .replace(str(OPEN + 60_000), str(OPEN + 60_007))
            .replace(str(OPEN + 119_999), str(OPEN + 120_006)),
            f"open time {OPEN + 60_007} is not a multiple of 1m",
        ),
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


def test_files_that_disagree_about_a_candle_are_both_named(tmp_path):
    write(tmp_path, "AUSDT-1m-2021-04-24.csv", line(0))
    write(tmp_path, "AUSDT-1m-2021-04.csv", line(0, price="1.05"))

    with pytest.raises(
        DumpInvalid,
        match=r"2021-04\.csv and .*2021-04-24\.csv disagree about the open of AUSDT at 2021-04-24T12:00Z",
    ):
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
