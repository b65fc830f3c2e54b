"""Labelled frames for the grounding stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pld_core.types import TimeStep
from pld_core.vla.frames import collect_grounding_frames
from pld_sim.tabletop import make_environments


class Elsewhere:
    """An environment whose ticks run elsewhere; ``underway`` counts those that were begun and not waited for."""

    underway, most = 0, 0

    def __init__(self, environment: Any) -> None:
        self._environment = environment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def begin_step(self, action: np.ndarray) -> Callable[[], TimeStep]:
        Elsewhere.underway += 1
        Elsewhere.most = max(Elsewhere.most, Elsewhere.underway)
        return lambda: self._finish(action)

    def _finish(self, action: np.ndarray) -> TimeStep:
        Elsewhere.underway -= 1
        return self._environment.step(action)


def test_ticks_that_run_elsewhere_run_at_once_and_give_the_same_frames() -> None:
    environments = make_environments("cube_pickup", 2)
    try:
        in_turn = collect_grounding_frames(environments, 40, seed=1)
        at_once = collect_grounding_frames([Elsewhere(e) for e in environments], 40, seed=1)  # type: ignore[misc]
    finally:
        for environment in environments:
            environment.close()
    assert Elsewhere.most == 2
    assert Elsewhere.underway == 0
    np.testing.assert_array_equal(in_turn.labels, at_once.labels)
    for camera, images in in_turn.images.items():
        np.testing.assert_array_equal(images, at_once.images[camera])
    assert in_turn.instructions == ("pick up the red cube",)
    # The label is where the target is from the tool: on the table below it, and never the same for long.
    assert (in_turn.labels[:, 2] < 0).mean() > 0.9
    assert in_turn.labels.std(axis=0)[:3].min() > 0.1
