"""Wrong filters: exactly what is said about each, where, and what to write instead."""

from pathlib import Path

import pytest

from sandbox.language.compiler import FilterCompiler
from sandbox.language.reference import diagnostics_page
from sandbox.plan.text.diagnostics import CODES
from sandbox.plan.text.syntax import SOURCE_BYTES_MAX

HEAD = "m15 = bars('15m')\nclose = m15.close\n"
CATALOGUE = Path(__file__).with_name("wrong_filters.txt")
ELSEWHERE = {"V002", "V003", "V004", "V307", "V390"}
"""Codes whose filters are too odd for the catalogue; each has its own test here or in test_hostile."""


def catalogue():
    cases = CATALOGUE.read_text(encoding="utf-8").split("===\n")[1:]
    for case in cases:
        source, _, expected = case.partition("\n---\n") if "\n---\n" in case else case.partition("---\n")
        yield (
            source.replace("HEAD\n", HEAD, 1) if source.startswith("HEAD\n") else source,
            expected.splitlines(),
        )


CASES = list(catalogue())


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler() as compiler:
        yield compiler


def told(item):
    hint = f" | {item.hint}" if item.hint else ""
    place = f"{item.line}:{item.column}-{item.end_line}:{item.end_column}"
    return f"{place} {item.severity} {item.code} {item.message}{hint}"


def comparable(line):
    """Python's own words about syntax differ between its versions; the rest is ours."""
    return f"{line.split(':')[0]} V001" if " V001 " in line else line


@pytest.mark.parametrize(("source", "expected"), CASES, ids=range(len(CASES)))
def test_a_wrong_filter_is_told_exactly_this(compiler, source, expected):
    compiled = compiler.compile(source)

    found = [comparable(told(item)) for item in compiled.diagnostics]
    assert found == [comparable(line) for line in expected], source
    assert (compiled.plan is None) == any(item.severity == "error" for item in compiled.diagnostics)


def test_the_catalogue_knows_every_code():
    assert len(CASES) >= 60
    codes = {line.split()[2] for _, expected in CASES for line in expected}
    assert codes == CODES.keys() - ELSEWHERE


def test_every_range_lies_in_the_text(compiler):
    for source, _ in CASES:
        lines = source.split("\n")
        for item in compiler.compile(source).diagnostics:
            assert 1 <= item.line <= item.end_line <= len(lines)
            assert 1 <= item.column <= len(lines[item.line - 1]) + 2
            assert (item.end_line, item.end_column) >= (item.line, item.column)


def test_all_mistakes_are_told_at_once(compiler):
    source = (
        "a = bars('7m')\n"
        "b = bars('1h').clos\n"
        "c = ta.rsi(bars('1h').close, 9000)\n"
        "d = a.close[-1] > b\n"
        "if c > 3:\n"
        "    d = missing\n"
        "signal(d and c)\n"
    )

    found = [(item.line, item.code) for item in compiler.compile(source).diagnostics]

    assert found == [(1, "V213"), (2, "V102"), (3, "V211"), (4, "V210"), (5, "V201"), (6, "V101")]


@pytest.mark.parametrize(
    ("source", "code", "line"),
    [
        ("x = 1\n" + "#" * SOURCE_BYTES_MAX, "V002", 1),
        ("x = 1\n" + "(" * 250 + "1" + ")" * 250, "V003", None),
        ("x = 1\n" + "x = " + "-" * 160 + "1", "V003", 2),
        ("x = 1\ny = 'a\0b'", "V004", 2),
        ("x = 1\ny = '\ud800'", "V004", 2),
    ],
)
def test_text_that_is_no_filter_is_refused(compiler, source, code, line):
    (item,) = compiler.compile(source).diagnostics

    assert item.code == code
    assert line in {None, item.line}


def test_hints_propose_what_compiles(compiler):
    wrong = compiler.compile(HEAD + "signal(ta.rsii(close) < 30)").diagnostics[0]
    assert wrong.hint == "Did you mean ta.rsi?"

    assert compiler.compile(HEAD + "signal(ta.rsi(close) < 30)").plan is not None


def test_the_page_of_codes_is_current():
    page = Path(__file__).parents[3] / "docs" / "language" / "diagnostics.md"

    assert page.read_text(encoding="utf-8") == diagnostics_page()
