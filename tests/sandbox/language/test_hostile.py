"""Filters that mean harm: each is refused or harmless, within bounds, and the next filter compiles as if nothing was."""

import resource
import time
from pathlib import Path

import pytest

from sandbox.language.compiler import WORKER_BYTES_MAX, FilterCompiler
from sandbox.plan.document import NODES_MAX
from sandbox.plan.text.syntax import DEPTH_MAX, SOURCE_BYTES_MAX

GOOD = "h = bars('1h')\nsignal(h.close > ta.sma(h.close, 20))"
SECONDS_MAX = 8.0
"""Two times the host's own deadline of 3 s (it may strike twice) and what a busy machine adds."""

HOSTILE = {
    "endless loop": "while True: pass",
    "endless loop that catches": "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
    "endless finally": "def f():\n  try:\n    return f()\n  finally:\n    f()\nf()",
    "endless comprehension": "[0 for a in range(10**6) for b in range(10**6) if a < b]",
    "endless sum": "sum(range(10**12))",
    "endless map": "list(map(lambda n: n, range(10**12)))",
    "sleep": "import time\ntime.sleep(1000)",
    "memory in one go": "x = [0] * 10**10",
    "memory doubling": "x = 'a'\nwhile True: x += x",
    "memory in a dict": "x = {n: str(n) * 1000 for n in range(10**9)}",
    "memory in closures": "f = lambda: 0\nwhile True:\n  f = (lambda g: lambda: g)(f)",
    "memory in tuples": "x = ()\nwhile True: x = (x, x, x, x) * 100",
    "huge power": "x = 9 ** 9 ** 9",
    "huge power step by step": "x = 10**10\nwhile True: x *= x",
    "huge shift": "x = 1 << 10**12",
    "huge text": "x = 'a' * 10**12",
    "huge format": "x = f'{3:1000000000d}'",
    "huge percent format": "x = '%1000000000d' % 3",
    "huge digits": "x = str(10 ** 10**6)",
    "huge constant": "signal(bars('1h').close > 10**5000)",
    "huge period": "signal(ta.sma(bars('1h').close, 10**5000) > 1)",
    "huge shift of a series": "signal(bars('1h').close[10**5000] > 1)",
    "huge factorial": "import math\nx = math.factorial(10**7)",
    "recursion": "def f(): return f()\nf()",
    "mutual recursion": "f = lambda n: g(n)\ng = lambda n: f(n)\nf(1)",
    "recursion in repr": "x = []\nfor n in range(10**5): x = [x]\nraise ValueError(repr(x)[:100])",
    "recursion in comparison": "x = []\nfor n in range(10**5): x = [x]\ny = x == [x]",
    "billion laughs": "a = [1] * 100\nb = [a] * 1000\nc = [b] * 1000\nd = [c] * 1000\nd",
    "billion laughs raised": "a = [1] * 100\nb = [a] * 1000\nc = [b] * 1000\nraise ValueError([c] * 1000)",
    "billion laughs shown": "a = [1] * 100\nb = [a] * 1000\nc = [b] * 1000\nshow(x=[c] * 1000)",
    "billion laughs as text": "a = 'ha'\nfor n in range(60): a = a + a",
    "self reference": "class A: pass\na = A()\na.a = a\na",
    "gigabyte prints": "while True: print('x' * 10**6)",
    "gigabyte errors": "raise ValueError('x' * 5 * 10**7)",
    "many errors": "\n".join(["1 / 0"] * 5000),
    "many names": "\n".join(f"x{n} = nope{n}" for n in range(3000)),
    "thousands of series": "h = bars('1h').close\nx = h\nfor n in range(10**6): x = x + n",
    "doubling series": "x = bars('1h').close\nfor n in range(10**5): x = x * x + x\nsignal(x > 1)",
    "thousands of conditions": "h = bars('1h').close\nok = True\nfor n in range(5000): ok = ok and h > n\nsignal(ok)",
    "thousands of operands": "h = bars('1h').close\nsignal("
    + " and ".join(f"h > {n}" for n in range(4000))
    + ")",
    "deep parentheses": "x = " + "(" * 5000 + "1" + ")" * 5000,
    "deep brackets": "x = " + "[" * 190 + "]" * 190,
    "deep unary": "x = " + "-" * 20_000 + "1",
    "deep sum": "x = " + "+".join(["1"] * 20_000),
    "deep not": "x = " + "not " * 10_000 + "1",
    "deep attributes": "x = a" + ".a" * 20_000,
    "deep calls": "x = f" + "()" * 20_000,
    "deep lambda": "x = " + "lambda: " * 5000 + "1",
    "deep blocks": "\n".join(" " * n + "if 1:" for n in range(99)) + "\n" + " " * 99 + "x = 1",
    "deep f-string": "x = " + "f'{" * 3 + "1" + "}'" * 3,
    "long line": "x = '" + "a" * 60_000 + "'",
    "too long": "#" * (SOURCE_BYTES_MAX + 1),
    "regular expression": "import re\nre.match('(a|a|a|a)*$', 'a' * 5000 + 'b')",
    "nested json": "import json\njson.loads('[' * 10**6)",
    "type bomb": "def f(a):\n    return (a, a)\nx = f(1)\n" + "\n".join(["x = f(x)"] * 300),
    "union bomb": "x = 1\n" + "\n".join(f"if x == {n}: x = '{n}'\nelse: x = (x, {n})" for n in range(400)),
    "each of itself": "x = []\nx.append(x)\nh = bars('1h').close\nsignal(each(lambda c: c[-1] in x, h, when=h > 1))",
    "each of billion laughs": "a = [1] * 100\nb = [a] * 1000\nc = [b] * 1000\nh = bars('1h').close\n"
    "signal(each(lambda v: v[-1] in c, h, when=h > 1))",
    "each of a long function": "def f(c):\n"
    + "    c[-1] + 1\n" * 4000
    + "    return c[-1] > 1\nh = bars('1h').close\n"
    + "each(f, h, when=h > 1)\n" * 500
    + "signal(each(f, h, when=h > 1))",
    "each of many functions": "h = bars('1h').close\n"
    + "".join(f"def f{n}(c): return f{n + 1}(c)\n" for n in range(900))
    + "f900 = lambda c: c[-1] > 1\n"
    + "each(f0, h, when=h > 1)\n" * 500
    + "signal(each(f0, h, when=h > 1))",
    "each in each": "h = bars('1h').close\nx = "
    + "each(lambda c: " * 100
    + "1"
    + ", h, when=h > 1)" * 100
    + "\nsignal(h > 1)",
    "each in a loop": "h = bars('1h').close\nfor n in range(10**6): x = each(lambda c: n, h, when=h > n)\nsignal(h > 1)",
    "each with the prelude's names": "h = bars('1h').close\nsignal(each(lambda c: vyx_run(c) > 1, h, when=h > 1))",
    "attribute tricks": "().__class__.__bases__[0].__subclasses__()",
    "attribute tricks by name": "getattr((), '__class__')",
    "globals of a function": "getattr(lambda: 0, '__globals__')",
    "imports": "import os, sys, subprocess, socket, ctypes",
    "import by function": "__import__('os')",
    "import within": "def f():\n    import os\n    return os.environ\nf()",
    "evaluated code": "eval('1')\nexec('x = 1')",
    "builtins": "__builtins__",
    "opened file": "open('/etc/passwd').read()",
    "opened path": "from pathlib import Path\nPath('/etc/passwd').read_text()",
    "the prelude's names": "vyx_finish = lambda: '{}'",
    "the prelude's nodes": "s = bars('1h').close\nsetattr(s, 'vyx_' + 'node', 10**9)\nsignal(s > 1)",
    "the prelude's nodes, backwards": "s = bars('1h').close > 1\nsetattr(s, 'vyx_' + 'node', -1)\nsignal(s)",
    "the prelude's nodes, of another kind": "s = bars('1h').close > 1\nsetattr(s, 'vyx_' + 'node', [1])\nsignal(s)",
    "the prelude's classes": "s = type(bars('1h').close)(7, 'bool')\nsignal(s)",
    "the prelude's errors": "raise ValueError('vyx!' + '[\"V999\", 3, null]')",
    "the prelude's errors, forged": 'raise ValueError(\'vyx!["V001", "\' + \'x\' * 10**6 + \'", "", "operand:99"]\')',
    "locals at the end": "bars('1h')\nlocals()",
    "an object at the end": "bars('1h')",
    "exit": "raise SystemExit(3)",
    "interrupt": "raise KeyboardInterrupt",
    "awaited": "async def f():\n    await f()\nawait f()",
    "surrogate": "x = '\ud800'",
    "escaped surrogate": "x = '\\ud800'\nraise ValueError(x)",
    "null": "x = 1\0",
    "right to left": "x = '\u202e'\nsignal(bars('1h').close > 1)",
    "form feed": "x = 1\x0cy = 2",
    "line separators": "x = '\u2028\x85\x1c'; nope\nsignal(bars('1h').close > 1)",
    "tabs": "if 1:\n\tx = 1\n\tif 2:\n\t\ty = nope",
    "nothing": "",
    "only space": " \t\n \n",
}


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler(processes=2) as compiler:
        yield compiler


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_filter_ends_in_time_and_leaves_nothing(compiler, name):
    started = time.monotonic()

    compiled = compiler.compile(HOSTILE[name])

    assert time.monotonic() - started < SECONDS_MAX
    assert (compiled.plan is None) == any(item.severity == "error" for item in compiled.diagnostics)
    assert sum(len(item.message) + len(item.hint) for item in compiled.diagnostics) < 1_000_000
    assert compiler.compile(GOOD).diagnostics == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("endless loop", "V304"),
        ("endless loop that catches", "V304"),
        ("huge power step by step", "V304"),
        ("memory in one go", "V305"),
        ("memory doubling", "V305"),
        ("huge text", "V305"),
        ("recursion", "V306"),
        ("thousands of series", "V302"),
        ("thousands of conditions", "V302"),
        ("deep parentheses", "V003"),
        ("deep sum", "V003"),
        ("huge constant", "V207"),
        ("huge period", "V211"),
        ("opened file", "V013"),
        ("imports", "V011"),
        ("the prelude's names", "V012"),
        ("the prelude's nodes", "V390"),
    ],
)
def test_a_hostile_filter_is_told_what_it_did(compiler, name, code):
    assert code in {item.code for item in compiler.compile(HOSTILE[name]).diagnostics}


def test_a_record_that_is_no_record_is_refused(compiler):
    forged = "s = bars('1h').close > 1\nsetattr(s, 'vyx_' + 'node', 'text')\nsignal(s)"

    codes = [item.code for item in compiler.compile(forged).diagnostics]

    assert codes == ["V307"]


def test_depth_and_width_within_the_limits_compile(compiler):
    deep = "h = bars('1h').close\nsignal(" + "-" * (DEPTH_MAX - 20) + "h < 1)"
    wide = "h = bars('1h').close\nsignal(" + " and ".join(f"h > {n}" for n in range(NODES_MAX // 3)) + ")"

    assert compiler.compile(deep).plan is not None
    assert compiler.compile(wide).plan is not None


def test_a_worker_has_no_secret_no_file_and_a_bound(monkeypatch):
    monkeypatch.setenv("VYX_JWT_SECRET", "hush")
    with FilterCompiler(processes=1) as compiler:
        compiler.compile(GOOD)
        with compiler._pool.checkout() as session:
            process = Path(f"/proc/{session.worker_pid}")
            environment = (process / "environ").read_bytes()
            opened = {entry.readlink().name.split(":")[0] for entry in (process / "fd").iterdir()}
            limit = resource.prlimit(session.worker_pid, resource.RLIMIT_AS)

    assert environment == b""
    assert "socket" not in opened
    assert limit == (WORKER_BYTES_MAX, WORKER_BYTES_MAX)


def test_what_is_printed_reaches_nobody(compiler, capfd):
    compiler.compile("print('secret')\n" + GOOD)

    assert capfd.readouterr() == ("", "")
