"""Rewriting keeps lines, positions and, on plain values, Python's meaning: held against Python itself."""

import ast
import io
import tokenize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.language.prelude.assemble import prelude
from sandbox.language.rewrite import rewrite
from sandbox.plan.text.source import Source, Span

NAMES = ("a", "b", "c")
ATOMS = st.sampled_from([*NAMES, "0", "1", "2", "True", "False", "None", "''", "'x'", "[]", "[a]", "(b, c)"])
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=", "is", "is not", "in", "not in")


def _grown(inner):
    two = st.tuples(inner, inner)
    three = st.tuples(inner, inner, inner)
    operators = st.sampled_from(COMPARISONS)
    return st.one_of(
        st.builds(lambda x, op, y: f"{x} {op} {y}", inner, operators, inner),
        st.builds(
            lambda x, op, y, op2, z: f"{x} {op}\\\n {y} {op2} {z}", inner, operators, inner, operators, inner
        ),
        three.map(lambda t: f"({t[0]}) and {t[1]} and # why\n {t[2]}"),
        two.map(lambda t: f"{t[0]} or({t[1]})"),
        inner.map(lambda x: f"not({x})"),
        inner.map(lambda x: f"not {x}"),
        three.map(lambda t: f"{t[0]} if {t[1]} else({t[2]})"),
        two.map(lambda t: f"[n for n in ({t[0]}, {t[1]}) if n if not n == 1]"),
        inner.map(lambda x: f"(lambda: {x})()"),
        two.map(lambda t: f"[{t[0]},\n\n {t[1]}]"),
        inner.map(lambda x: f"f'é{{[{x}]!r:>5}}'" if "'" not in x and "\n" not in x and "\\" not in x else x),
        inner.map(lambda x: f"note({x})"),
    ).map(lambda text: f"({text})")


EXPRESSIONS = st.recursive(ATOMS, _grown, max_leaves=12)


def outcome(text, variables, prepared):
    """Value or exception of an expression, and what it evaluated in which order."""
    noted = []
    scope = dict(prepared, **variables, note=lambda value: noted.append(repr(value)) or value)
    try:
        exec(f"result = {text}", scope)  # noqa: S102 - the test's own text
    except (TypeError, ValueError) as error:
        return type(error), noted
    return repr(scope["result"]), noted


@pytest.fixture(scope="module")
def prepared():
    """The prelude as Python understands it: on plain values it has to be invisible."""
    scope = {}
    exec(prelude(), scope)  # noqa: S102 - our own text
    return scope


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.tuples(*[st.sampled_from([0, 1, 3, True, None, "x", (1, 2)])] * 3))
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_plain_values_mean_what_python_means(prepared, text, values):
    variables = dict(zip(NAMES, values, strict=True))
    rewritten = rewrite(Source(text), ast.parse(text)).text

    assert outcome(rewritten.replace("vyx_at(0); ", ""), variables, prepared) == outcome(text, variables, {})


def tokens(text):
    """Every name, number and text of the source with its line, in order."""
    kinds = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING)
    return [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in kinds
    ]


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_every_token_stays_on_its_line(text, test):
    source = f"x = {text}\nif {test}:\n    y = 'é'; assert {text}\nsignal(x and {test})\n"
    if "f'" in source:
        return  # an f-string is replaced as a whole
    kept = [
        token for token in tokens(source) if token[1] not in {"and", "or", "not", "in", "is", "if", "else"}
    ]

    rewritten = iter(tokens(rewrite(Source(source), ast.parse(source)).text))

    assert all(token in rewritten for token in kept)


SOURCE = """m = bars('1h')
é = 'é'; x = (m.close
     > 33) and not m.open < é
if 11 < 22 < (
        44):
    show(y=x if é else m.low)
signal(x)
"""


@pytest.mark.parametrize(
    "name", ["m.close", "33", "m.open", "é", "22", "x if é else m.low", "m.low", "show(y=x if é else m.low)"]
)
def test_a_range_of_the_new_text_leads_back_to_the_users(name):
    tree = ast.parse(SOURCE)
    source = Source(SOURCE)
    rewritten = rewrite(source, tree)
    new = Source(rewritten.text)
    for node in ast.walk(ast.parse(rewritten.text)):
        if isinstance(node, ast.expr) and new.segment(node) == name:
            span = new.span_of(node)
            back = rewritten.origin(span.line, span.column, span.end_line, span.end_column)
            assert source.text_at(back) == name


def test_a_call_that_was_spliced_in_leads_back_to_the_whole_construct():
    text = "x = a < b"
    rewritten = rewrite(Source(text), ast.parse(text))
    start = rewritten.text.index("vyx_lt") + 1

    assert rewritten.origin(1, start, 1, start + 6) == Span(1, 5, 1, 10)


@pytest.mark.parametrize(
    ("source", "terms"),
    [
        ("signal(a and b)", ["a", "b"]),
        ("x = a and b\nsignal(x and c)", ["a", "b", "c"]),
        ("x = a > 1\nsignal(x)", ["x = a > 1"]),
        ("x = a\nx = b\nsignal(x and c)", ["x", "c"]),
        ("for x in y: pass\nsignal(x)", ["x"]),
        ("def f(x): signal(x)", ["x"]),
        ("x = 1\ndef f(x): signal(x)", ["x"]),
        ("signal(condition=a and b)", ["a", "b"]),
        ("signal(*x)", []),
        ("signal(a or b)\nshow(v=c)", ["a or b", "c"]),
    ],
)
def test_terms_are_the_conjuncts_through_their_names(source, terms):
    rewritten = rewrite(Source(source), ast.parse(source))

    assert [site.text for site in rewritten.terms] == terms
