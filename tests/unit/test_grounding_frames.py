"""Labelled frames for the grounding stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pld_core.errors import EpisodeLostError
from pld_core.types import ActionSpec, TimeStep
from pld_core.vla.frames import collect_grounding_frames, push_scale
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


def test_frames_apart_are_those_of_the_same_episode_at_every_so_many_ticks() -> None:
    environments = make_environments("cube_pickup", 1)
    seen: list[int] = []
    environments[0].image_every = 1  # type: ignore[attr-defined]  # as one has whose pictures are dear
    environments[0].simplified = True  # type: ignore[attr-defined]
    try:
        all_frames = collect_grounding_frames(environments, 31, seed=1)
        apart = collect_grounding_frames(environments, 11, seed=1, every=3)
        seen.append(environments[0].image_every)  # type: ignore[attr-defined]
    finally:
        environments[0].close()
    assert seen == [3]
    assert not environments[0].simplified  # type: ignore[attr-defined]
    np.testing.assert_array_equal(apart.labels, all_frames.labels[::3])
    np.testing.assert_array_equal(apart.images["wrist"], all_frames.images["wrist"][::3])


def test_pushes_turn_the_tool_by_so_much_and_no_more() -> None:
    np.testing.assert_array_equal(push_scale(ActionSpec()), np.ones(7))
    np.testing.assert_allclose(push_scale(ActionSpec(translation_m=0.05, rotation_rad=0.5)), [1, 1, 1, *[0.16] * 3, 1])
    np.testing.assert_array_equal(push_scale(ActionSpec(dim=3, gripper=None, rotation_rad=0.5)), np.ones(3))


@pytest.mark.parametrize("at", [0, 9])
def test_frames_go_on_in_another_episode_where_a_process_is_lost(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """In a reset or in a tick."""
    (environment,) = make_environments("cube_pickup", 1)
    name = "reset" if at == 0 else "step"
    real, calls = getattr(environment, name), iter(range(1000))

    def dies_once(given: Any) -> TimeStep:
        if next(calls) == at:
            raise EpisodeLostError("The worker is gone.")
        return real(given)

    resets: list[int] = []
    monkeypatch.setattr(environment, name, dies_once)
    reset = environment.reset
    monkeypatch.setattr(environment, "reset", lambda seed: (resets.append(seed), reset(seed))[1])
    try:
        with pytest.warns(UserWarning, match=r"The worker is gone\. Frames are taken from another one"):
            frames = collect_grounding_frames([environment], 20, seed=1)
    finally:
        environment.close()
    assert len(frames.labels) == 20
    assert len(resets) == 2
