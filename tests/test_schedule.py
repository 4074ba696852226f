"""How long a training lasts, and its learning rate on the way."""

import math

import pytest

from taming_cli.errors import UsageError
from taming_cli.runtime.schedule import Budget, cosine, warm_up


def test_a_budget_is_spent_by_steps_by_minutes_or_by_the_first_of_both() -> None:
    assert Budget(steps=10, minutes=0.0).spent(5, 1e9) == 0.5
    assert Budget(steps=0, minutes=2.0).spent(10**9, 30.0) == 0.25
    both = Budget(steps=10, minutes=1.0)
    assert both.spent(5, 6.0) == 0.5
    assert both.spent(1, 30.0) == 0.5
    assert both.spent(0, 0.0) == 0.0
    assert both.spent(10, 0.0) == 1.0
    assert both.spent(3, 61.0) > 1.0


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="--steps or --minutes"):
        Budget(steps=0, minutes=0.0)


def test_warm_up_is_linear_and_never_zero() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_goes_from_1_to_its_end_symmetrically(final: float) -> None:
    assert cosine(0.0, final) == pytest.approx(1.0)
    assert cosine(1.0, final) == pytest.approx(final)
    assert cosine(0.5, final) == pytest.approx((1 + final) / 2)
    assert cosine(0.25, final) == pytest.approx(final + (1 - final) * (2 + math.sqrt(2)) / 4)
    assert cosine(0.3, final) + cosine(0.7, final) == pytest.approx(1 + final)


def test_cosine_stays_at_its_ends_beyond_them() -> None:
    assert cosine(1.7, 0.1) == pytest.approx(0.1)
    assert cosine(-0.5, 0.1) == pytest.approx(1.0)
