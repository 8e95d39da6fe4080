"""
`each`: the operator whose function comes with the plan.

Decided here: its parameters and what its values cost. Not decided here: what its function may say
(`sandbox.plan.text.function`), nor how it is run and within which limits (`sandbox.interpreter.functions`).
"""

from sandbox.plan.operators.kind import Each, Params
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.text.function import refusal

BARS_MAX = 500
CALL_NS = 10_000
"""A call takes 10 to 20 us, so one plan asks for at most 50 calls a symbol."""


def _refusal(params: Params) -> str | None:
    return refusal(str(params["source"]), str(params["name"]))


def each_operator() -> Operator:
    """The operator; its first input says where the function is called, the others are what it is given."""
    return Operator(
        name="each",
        inputs=("when", "series"),
        params=(
            Param("bars", "int", 1, 1, BARS_MAX, (), "How many values of each series the function is given."),
            Param("name", "str", None, doc="The function's name."),
            Param("source", "str", None, doc="The text that defines it."),
        ),
        outputs=("value",),
        returns="float",
        category="Your own function",
        doc=(
            "`fn` is a function defined at top level, or a lambda. For every symbol for which `when` is true it is "
            "called with one list for each series: its last `bars` values, oldest first, numbers or True and False. "
            "It gives a number, True or False (1 or 0), or None for no value (NaN). Where `when` is not true, or one of "
            "the values is missing (NaN: a symbol is too young), it is not called and there is no value; nz(s, 0) "
            "fills gaps. A function that returns only comparisons and the like, or says `-> bool`, makes a condition. "
            "Without `when` it is called wherever all values are there. It may use "
            "plain values, other functions and modules of the filter, but no series: those are given to it. It keeps "
            "nothing from call to call. A call takes at most 50 ms and 32 MB, all calls of one `each` in a slot "
            "250 ms; a function that needs more, raises, or gives anything else puts its trader into error. At most "
            "4 in a filter, 4096 bytes of text each."
        ),
        kind=Each(lambda params: int(params["bars"]) - 1),
        input_kinds=("bool", "any"),
        variadic=True,
        check=_refusal,
        cost_ns=lambda _params: CALL_NS,
    )
