"""Wilson intervals against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_core.errors import ContractError
from pld_core.statistics import SuccessRate, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # z = 1.96: centre (p + z^2/2n) / (1 + z^2/n), half width z / (1 + z^2/n) sqrt(p(1-p)/n + z^2/4n^2)
        (5, 10, 0.2366, 0.7634),
        (50, 100, 0.4038, 0.5962),
        (95, 100, 0.8882, 0.9785),
        (0, 10, 0.0, 0.2775),  # z^2 / (n + z^2) = 3.8415 / 13.8415
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_hand_computed(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_no_episodes_say_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert SuccessRate(0, 0).rate == 0.0


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ContractError, match="between 0 and n"):
        wilson(successes, n)


@given(n=st.integers(1, 10_000), data=st.data())
def test_the_interval_holds_the_rate_and_mirrors(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0.0 <= low <= k / n <= high <= 1.0
    mirrored = wilson(n - k, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)
    assert wilson(10 * k, 10 * n)[1] - wilson(10 * k, 10 * n)[0] < high - low  # more episodes, narrower


def test_as_eval_json_has_it():
    assert SuccessRate(95, 100).to_dict() == {
        "successes": 95,
        "episodes": 100,
        "rate": 0.95,
        "ci95": [0.8882, 0.9785],
    }
    assert str(SuccessRate(95, 100)) == "95 % [89, 98] (95/100)"
