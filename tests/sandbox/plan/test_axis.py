"""An axis says on which bars a series has values, and on which a combination of series has them."""

import itertools

import pytest

from sandbox.plan.axis import Axis
from sandbox.plan.timeframes import TIMEFRAMES

H1, H4 = Axis("1h"), Axis("4h")
H1_FORMING, H4_FORMING = Axis("1h", forming=True), Axis("4h", forming=True)
EVERY = [
    Axis.NOW,
    Axis.CONSTANT,
    *(Axis(name, forming=both) for name in TIMEFRAMES for both in (False, True)),
]


def test_equal_axes_are_one_object():
    for name, forming in itertools.product(TIMEFRAMES, (False, True)):
        assert Axis(name, forming=forming) is Axis(name, forming=forming)
    assert len(set(EVERY)) == 2 + 2 * len(TIMEFRAMES) - 1


def test_every_axis_has_a_name_of_its_own():
    assert len({str(axis) for axis in EVERY}) == len(set(EVERY))
    assert (str(H1), str(H1_FORMING)) == ("1h", "1h forming")


def test_an_axis_cannot_be_changed():
    with pytest.raises(AttributeError):
        H1.forming = True


def test_there_is_no_axis_of_an_unknown_timeframe():
    with pytest.raises(KeyError):
        Axis("7m")


def test_of_the_finest_timeframe_nothing_is_known_before_its_close():
    assert Axis("1m", forming=True) is Axis("1m")


def test_what_an_axis_says_of_itself():
    said = {str(axis): (axis.has_bars, axis.length_s, axis.is_provisional) for axis in EVERY}

    assert said["1h"] == (True, 3600, False)
    assert said["1h forming"] == (True, 3600, True)
    assert said["now"] == (False, 0, True)
    assert said["constant"] == (False, 0, False)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ((), Axis.CONSTANT),
        ((Axis.CONSTANT, Axis.CONSTANT), Axis.CONSTANT),
        ((Axis.CONSTANT, H1), H1),
        ((Axis.CONSTANT, Axis.NOW), Axis.NOW),
        ((H1, H1), H1),
        ((H1_FORMING, H1_FORMING), H1_FORMING),
        ((H4, H1), H1),
        ((H4, H1_FORMING), H1_FORMING),
        ((H1, H1_FORMING), Axis.NOW),
        ((H1, H4_FORMING), Axis.NOW),
        ((H1_FORMING, H4_FORMING), Axis.NOW),
        ((H1, Axis.NOW), Axis.NOW),
    ],
)
def test_a_combination_lives_on_the_finest_axis_or_on_now(axes, expected):
    for order in itertools.permutations(axes):
        assert Axis.joined(order) is expected
