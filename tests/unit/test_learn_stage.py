"""How the learn stage cuts its work into compiled calls."""

from __future__ import annotations

import pytest

from pld_core.stages.learn import updates_per_call


@pytest.mark.parametrize("ratio", [1, 2, 5, 50])
def test_ratios_that_divide_a_call_leave_its_size_alone(ratio: int) -> None:
    assert updates_per_call(ratio) == 50


@pytest.mark.parametrize(("ratio", "expected"), [(3, 48), (7, 49), (30, 30), (64, 64)])
def test_other_ratios_get_whole_groups(ratio: int, expected: int) -> None:
    assert updates_per_call(ratio) == expected
