"""Every line of docs/language/LIMITATIONS.md is true."""

import re
from pathlib import Path

import pytest

from sandbox.language.compiler import FilterCompiler
from sandbox.language.reference import reference

FOLDER = Path(__file__).parents[3] / "docs" / "language"
LINES = [
    line
    for line in (FOLDER / "LIMITATIONS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("- ")
]
REFUSED = re.compile(r"- .+\. `([^`]+)` → (V\d{3})")
SAME = re.compile(r"- .+\. `([^`]+)` = `([^`]+)`")
HEAD = 'h = bars("1h")\nclose = h.close\n'


def filter_of(example):
    return HEAD + example.replace("⏎", "\n")


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize("line", LINES)
def test_a_limitation_is_as_described(compiler, line):
    if refused := REFUSED.fullmatch(line):
        compiled = compiler.compile(filter_of(refused[1]))
        errors = {item.code for item in compiled.diagnostics if item.severity == "error"}
        assert refused[2] in errors
        assert errors <= {refused[2], "V220"}
        return
    left, right = SAME.fullmatch(line).groups()
    plans = [compiler.compile(filter_of(example)).plan for example in (left, right)]
    assert plans[0].hash == plans[1].hash


def test_the_limits_told_are_the_limits():
    from sandbox.language import compiler as limits
    from sandbox.plan import document as plan

    text = "\n".join(LINES)
    assert f"{limits.RECURSION_MAX} calls deep" in text
    assert f"{limits.MEMORY_BYTES_MAX // 10**6} MB" in text
    assert f"{plan.NODES_MAX} parts" in text
    assert f"{plan.COST_MAX:,} bar steps" in text
    assert f"{plan.LOOKBACK_BARS_MAX} bars of any" in text
    assert f"{plan.SHOW_MAX} shown values" in text


def test_the_reference_is_current():
    assert (FOLDER / "reference.md").read_text(encoding="utf-8") == reference()
