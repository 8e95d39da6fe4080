"""Part 2 of what runs before a filter (see `series`): arithmetic, comparisons, conditions and choices."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.language.prelude.operators import vyx_needed
    from sandbox.language.prelude.series import Bars, Series, vyx_called, vyx_fail, vyx_operand, vyx_record


def vyx_arithmetic(op: str, symbol: str, a: Any, b: Any) -> Any:
    args = (vyx_operand(a, symbol, "operand:0"), vyx_operand(b, symbol, "operand:1"))
    return vyx_record(op, args, {}, 0, "float")


def vyx_condition(value: Any, word: str, where: str) -> Any:
    """*value*, which has to be a condition."""
    if value.vyx_kind in ("bool", "poison"):
        return value
    return vyx_fail(
        "V202",
        "`" + word + "` takes conditions; this is a series of numbers.",
        "Compare it with something, for example x > 0.",
        where,
    )


def vyx_no_bars(value: Any, word: str, where: str) -> None:
    if isinstance(value, Bars):
        vyx_fail(
            "V202",
            "`" + word + "` takes conditions; this is all the fields of bars().",
            "Choose a field and compare it.",
            where,
        )


def vyx_bitwise(op: str, symbol: str, a: Any, b: Any) -> Any:
    for value in (a, b):
        is_condition = isinstance(value, bool) or (isinstance(value, Series) and value.vyx_kind != "float")
        if not is_condition:
            vyx_fail(
                "V202",
                "`" + symbol + "` combines conditions; one side is " + vyx_called(value) + ".",
                "Write `" + op + "`, which needs no parentheses: a > b " + op + " c > d.",
            )
    return vyx_combine(op, [a, b])


def vyx_combine(op: str, values: Any) -> Any:
    """`and` / `or` of conditions and Python booleans."""
    decided = op == "or"
    nodes = []
    last: Any = decided
    for value in values:
        if isinstance(value, Series):
            nodes.append(vyx_condition(value, op, "").vyx_node)
            last = value
        elif bool(value) == decided:
            return decided
    if len(nodes) == 0:
        return not decided
    if len(nodes) == 1:
        return last
    return vyx_record(op, tuple(nodes), {}, 0, "bool")


def vyx_logic(op: str, terms: Any) -> Any:
    """`a and b and c` as Python does it, lazily, as long as no series is among them."""
    decided = op == "or"
    conditions: list[Any] = []
    value: Any = None
    for position, term in enumerate(terms):
        value = term if position == 0 else term()
        if isinstance(value, Series):
            conditions.append(vyx_condition(value, op, "operand:" + str(position)))
            continue
        vyx_no_bars(value, op, "operand:" + str(position))
        if bool(value) == decided:
            return value if not conditions else decided
    if not conditions:
        return value
    return vyx_combine(op, conditions)


def vyx_and(*terms: Any) -> Any:
    return vyx_logic("and", terms)


def vyx_or(*terms: Any) -> Any:
    return vyx_logic("or", terms)


def vyx_not(value: Any, word: str = "not") -> Any:
    if isinstance(value, Series):
        return vyx_record("not", (vyx_condition(value, word, "operand:0").vyx_node,), {}, 0, "bool")
    vyx_no_bars(value, word, "operand:0")
    return not value


VYX_SYMBOLS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def vyx_compare(op: str, a: Any, b: Any) -> Any:
    if not isinstance(a, Series) and not isinstance(b, Series):
        if isinstance(a, Bars) or isinstance(b, Bars):
            vyx_fail(
                "V204",
                "`" + VYX_SYMBOLS[op] + "` cannot compare all the fields of bars() at once.",
                "Choose a field: .close, .high, .low, .open or .volume.",
            )
        return vyx_compare_plain(op, a, b)
    if op in ("eq", "ne"):
        for condition, other in ((a, b), (b, a)):
            if isinstance(other, bool) and condition.vyx_kind == "bool":
                return condition if other == (op == "eq") else vyx_not(condition)
    symbol = VYX_SYMBOLS[op]
    args = (vyx_operand(a, symbol, "operand:0"), vyx_operand(b, symbol, "operand:1"))
    return vyx_record(op, args, {}, 0, "bool")


def vyx_compare_plain(op: str, a: Any, b: Any) -> Any:
    if op == "lt":
        return a < b
    if op == "le":
        return a <= b
    if op == "gt":
        return a > b
    if op == "ge":
        return a >= b
    if op == "eq":
        return a == b
    return a != b


def vyx_lt(a: Any, b: Any) -> Any:
    return vyx_compare("lt", a, b)


def vyx_le(a: Any, b: Any) -> Any:
    return vyx_compare("le", a, b)


def vyx_gt(a: Any, b: Any) -> Any:
    return vyx_compare("gt", a, b)


def vyx_ge(a: Any, b: Any) -> Any:
    return vyx_compare("ge", a, b)


def vyx_eq(a: Any, b: Any) -> Any:
    return vyx_compare("eq", a, b)


def vyx_ne(a: Any, b: Any) -> Any:
    return vyx_compare("ne", a, b)


def vyx_in(a: Any, b: Any) -> Any:
    if isinstance(a, Series):
        vyx_fail(
            "V203",
            "`in` cannot test a series: its values are not known when the filter is read.",
            "Compare it: a == 1 or a == 2, or any([a == n for n in values]).",
            "operand:0",
        )
    return a in b


def vyx_not_in(a: Any, b: Any) -> Any:
    return not vyx_in(a, b)


def vyx_chain(first: Any, *rest: Any) -> Any:
    """`a < b <= c`: every term is evaluated once, later ones only while the plain comparisons before them hold."""
    conditions: list[Any] = []
    left = first
    for position in range(0, len(rest), 2):
        op = rest[position]
        right = rest[position + 1]()
        if op == "is":
            value: Any = left is right
        elif op == "is_not":
            value = left is not right
        elif op == "in":
            value = vyx_in(left, right)
        elif op == "not_in":
            value = vyx_not_in(left, right)
        else:
            value = vyx_compare(op, left, right)
        if isinstance(value, Series):
            conditions.append(value)
        elif not value:
            return value
        left = right
    return vyx_combine("and", conditions) if conditions else True


def vyx_choose(yes: Any, condition: Any, no: Any) -> Any:
    """`yes if condition else no`: both sides when the condition is a series, as `where` does."""
    if isinstance(condition, Series):
        return vyx_where(vyx_condition(condition, "if ... else", "operand:1"), yes(), no())
    vyx_no_bars(condition, "if ... else", "operand:1")
    return yes() if condition else no()


def vyx_where(condition: Any, yes: Any, no: Any) -> Any:
    vyx_needed("where", ["condition", "yes", "no"], [condition, yes, no])
    if not isinstance(condition, Series):
        if isinstance(condition, bool):
            return yes if condition else no
        vyx_fail(
            "V202",
            "where() takes a condition first; this is " + vyx_called(condition) + ".",
            "where(close > open, 1, -1)",
            "argument:condition",
        )
    vyx_condition(condition, "where", "argument:condition")
    is_logic = True
    for value in (yes, no):
        if not isinstance(value, bool) and not (isinstance(value, Series) and value.vyx_kind == "bool"):
            is_logic = False
    if is_logic:
        if isinstance(yes, bool) and isinstance(no, bool):
            if yes == no:
                return yes
            return condition if yes else vyx_not(condition)
        if isinstance(yes, bool):
            return vyx_combine("or", [condition, no]) if yes else vyx_combine("and", [vyx_not(condition), no])
        if isinstance(no, bool):
            return (
                vyx_combine("or", [vyx_not(condition), yes]) if no else vyx_combine("and", [condition, yes])
            )
    args = (
        condition.vyx_node,
        vyx_operand(yes, "where", "argument:yes"),
        vyx_operand(no, "where", "argument:no"),
    )
    return vyx_record("where", args, {}, 0, "bool" if is_logic else "float")


def vyx_truth(value: Any, word: str) -> Any:
    if isinstance(value, Series) and value.vyx_kind == "poison":
        return False
    if isinstance(value, (Series, Bars)):
        hint = "Write `x if condition else y` or where(condition, x, y) to choose a value,"
        hint += " and combine conditions with `and`, `or`, `not`."
        if word == "assert":
            hint = "Put what must hold into signal(...): signal(condition and ...)."
        elif word == "while":
            hint = "A filter describes one bar: look back with s[n], highest, barssince, valuewhen."
        vyx_fail(
            "V201",
            "`" + word + "` needs one answer, but a series has one per symbol and bar.",
            hint,
            "test",
        )
    return value


def vyx_format(value: Any, conversion: int, spec: str) -> str:
    if conversion in (114, 97):  # !r, !a
        value = repr(value)
    elif conversion == 115:  # !s
        value = str(value)
    return format(value, spec)
