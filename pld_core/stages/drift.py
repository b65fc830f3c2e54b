"""How far specialist and VLA* have moved from the base, in action space, on states that no training has seen.

What is compared, at a state s where the base plans anew, is the distribution of the first action of

- a base or VLA*: its chunks as ``SamplingPolicy.sample`` draws them (a flow or diffusion head from Gaussian noise, a
  token head by its probabilities);
- the specialist: ``clip(a_b + xi * u, -1, 1)`` with a_b drawn from the base and the residual u from the learned
  squashed Gaussian given s, a_b and the plan that a_b begins: of the same kind as the base's, and equal to it in
  the entries that no residual moves.

``kl`` is KL(later || earlier), what the later policy does that the earlier would not; ``kl_reverse`` the other way
round; both in nats, by ``divergence.sampled_kl`` after smoothing both with ``SMOOTHING``, mean over the states. That is
right in expectation for Gaussian actions; a policy with two modes counts as one wide Gaussian. A token head's
probabilities would give a divergence without estimation, but not one that can be compared: over bins it knows no
distance, and the specialist has no tokens. A policy that only answers has no distribution: ``kl`` is null then.

Episodes execute none of these samples but each policy's one answer, so ``difference`` is told in any case: how far
apart the answers are, mean over the states of their Euclidean distance in each group of the action.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from pld_core.control import ResidualController, SafetyLimits
from pld_core.divergence import sampled_kl, smoothed
from pld_core.errors import ConfigError
from pld_core.interfaces import BasePolicy, ResidualActor, SamplingPolicy
from pld_core.stages.workspace import Workspace
from pld_core.storage import write_json
from pld_core.types import ActionChunk, ActionSpec, Episode, EpisodeSpec, Observation

SMOOTHING = 0.05  # of full action: half a millimetre and 4 mrad per tick on the arms here, which a task hardly feels
EPISODES = 50  # of each policy, at most, whose pictures are kept until states of them are chosen
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class State:
    """What a policy is shown, and in which episode it was met: states of one episode resemble each other."""

    observation: Observation
    episode: tuple[str, int]


class HeldOutStates:
    """Chooses ``count`` states from evaluation episodes, as many of each policy that is listened to.

    every: ticks from one plan of the base to the next; only there are the pictures fresh and the plan is new.
    """

    def __init__(self, count: int, episodes: int, every: int, policies: Sequence[str] = ("base", "specialist")) -> None:
        self.share = -(-count // len(policies))
        self.episodes = min(EPISODES, episodes, self.share)
        self._each, self._every = -(-self.share // max(self.episodes, 1)), every
        self._found: dict[str, list[State]] = {name: [] for name in policies}

    def wants(self, policy: str) -> bool:
        return policy in self._found and len(self._found[policy]) < self.share

    def see(self, policy: str, episode: Episode) -> None:
        """An episode that ``policy`` drove, with its pictures; one that a fault spoilt is passed over."""
        if not self.wants(policy) or not episode.spec.record_images or episode.voided:
            return
        found, seed = self._found[policy], episode.spec.seed
        ticks = np.arange(0, len(episode), self._every)
        most = min(self._each, self.share - len(found), len(ticks))
        for tick in np.sort(np.random.default_rng(seed).choice(ticks, most, replace=False)):
            images = {name: frames[tick].copy() for name, frames in episode.images.items()}
            found.append(State(Observation(images, episode.proprio[tick], episode.instruction), (policy, seed)))

    def all(self) -> list[State]:
        return [state for states in self._found.values() for state in states]


class Actions(Protocol):
    """First actions of one policy."""

    def answers(self, observations: Sequence[Observation]) -> np.ndarray:
        """Those that episodes execute, ``[S, A]``."""
        ...

    def draw(self, observation: Observation, count: int, seed: int) -> np.ndarray | None:
        """``[count, A]`` from its distribution; None where it has none."""
        ...


class ChunkActions:
    """Of a base policy or VLA*."""

    def __init__(self, policy: BasePolicy, batch: int = 1) -> None:
        self._policy, self._batch = policy, batch

    def answers(self, observations: Sequence[Observation]) -> np.ndarray:
        parts = [observations[k : k + self._batch] for k in range(0, len(observations), self._batch)]
        return np.stack([chunk.actions[0] for part in parts for chunk in self._policy.infer(part)])

    def draw(self, observation: Observation, count: int, seed: int) -> np.ndarray | None:
        if not isinstance(self._policy, SamplingPolicy):
            return None
        return np.stack([chunk.actions[0] for chunk in self._policy.sample(observation, count, seed)])


class SpecialistActions:
    """Of base and residual together, through the tick that episodes use, without a station's workspace.

    make_controller: for a policy and a number of lanes. cameras: those that the residual looks at itself.
    """

    def __init__(
        self,
        policy: BasePolicy,
        actor: ResidualActor,
        xi: float,
        make_controller: Callable[[BasePolicy, int], ResidualController],
        cameras: Collection[str] = (),
    ) -> None:
        self._policy, self._actor, self._xi, self._cameras = policy, actor, xi, cameras
        self._answering = make_controller(policy, 1)
        self._make: Callable[[BasePolicy, int], ResidualController] = make_controller
        self._drawing: dict[int, tuple[_Given, ResidualController]] = {}

    def answers(self, observations: Sequence[Observation]) -> np.ndarray:
        return np.concatenate([self._tick(self._answering, [seen], None) for seen in observations])

    def draw(self, observation: Observation, count: int, seed: int) -> np.ndarray | None:
        if not isinstance(self._policy, SamplingPolicy):
            return None
        if count not in self._drawing:
            given = _Given(self._policy)
            self._drawing[count] = given, self._make(given, count)
        given, controller = self._drawing[count]
        given.chunks = self._policy.sample(observation, count, seed)
        seen = {name: image for name, image in observation.images.items() if name in self._cameras}
        return self._tick(controller, [replace(observation, images=seen)] * count, seed)

    def _tick(self, controller: ResidualController, seen: Sequence[Observation], seed: int | None) -> np.ndarray:
        """Executed actions of an episode's first tick; every lane draws noise of its own, or with no seed none."""
        for lane in range(len(seen)):
            noise = 0 if seed is None else seed * len(seen) + lane
            spec = EpisodeSpec("drift", noise, "evaluate", t_base=0, xi=self._xi, explore=seed is not None)
            controller.reset(lane, spec)
        return np.stack([tick.action for tick in controller.tick(range(len(seen)), seen, self._actor)])


class _Given:
    """A base policy whose chunks were drawn before."""

    def __init__(self, policy: BasePolicy) -> None:
        self.version, self.action_horizon = policy.version, policy.action_horizon
        self.feature_dim = policy.feature_dim
        self.chunks: list[ActionChunk] = []

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return self.chunks


def run_drift(work: Workspace, states: Sequence[State], star: BasePolicy | None) -> None:
    """Compare the run's policies at ``states`` and write ``drift.json``, unless it is there for the same policies."""
    config = work.config
    versions = {"base": work.policy.version, "specialist": _digest(work.specialist_path.read_bytes())}
    versions |= {"distilled": star.version} if star is not None else {}
    path = work.folder / "drift.json"
    with suppress(OSError, ValueError, AttributeError):
        if json.loads(path.read_text(encoding="utf-8")).get("policies") == versions:
            return
    if not states:  # every episode was spoilt
        return
    spec, residual = work.environment.action_spec, work.algorithm.residual
    limits, every, features = SafetyLimits(spec), config.replan_every, config.learn.policy_features
    policies: dict[str, Actions] = {
        "base": ChunkActions(work.policy, config.lanes),
        "specialist": SpecialistActions(
            work.policy, work.specialist(), config.learn.xi_max,
            lambda policy, lanes: ResidualController(policy, limits, lanes, every, residual, features),
            work.image_specs,
        ),
    }  # fmt: skip
    if star is not None:
        policies["distilled"] = ChunkActions(star, config.lanes)
    found = compare(policies, states, spec, config.evaluate.drift_samples)
    write_json(path, {"policies": versions, "states": len(states), "smoothing": SMOOTHING, **found})


def check_samples(samples: int, spec: ActionSpec) -> None:
    """ConfigError where so few samples have no covariance."""
    if samples <= spec.dim + 2:
        raise ConfigError(
            f"evaluate.drift_samples is {samples}; actions of {spec.dim} entries need at least {spec.dim + 3}. 64 is "
            "the default; evaluate.drift_states 0 leaves the comparison out."
        )


def compare(policies: Mapping[str, Actions], states: Sequence[State], spec: ActionSpec, samples: int) -> dict[str, Any]:
    """``{"samples", "pairs": [{"from", "to", "kl", "kl_reverse", "difference"}]}``; policies in the loop's order."""
    answers = {name: policy.answers([state.observation for state in states]) for name, policy in policies.items()}
    drawn = {name: _drawn(policy, states, samples, stream) for stream, (name, policy) in enumerate(policies.items())}
    episodes = [state.episode for state in states]
    pairs = []
    for earlier, later in _pairs(tuple(policies)):
        p, q = drawn[later], drawn[earlier]
        both = p is not None and q is not None
        pairs.append(
            {
                "from": earlier,
                "to": later,
                "kl": _summary(sampled_kl(p, q), episodes) if both else None,  # type: ignore[arg-type]
                "kl_reverse": _summary(sampled_kl(q, p), episodes) if both else None,  # type: ignore[arg-type]
                "difference": _difference(answers[later] - answers[earlier], spec),
            }
        )
    return {"samples": samples, "pairs": pairs}


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each with the next, and the first with the last."""
    return [*pairwise(names), *([(names[0], names[-1])] if len(names) > 2 else [])]


def _drawn(policy: Actions, states: Sequence[State], samples: int, stream: int) -> np.ndarray | None:
    """Smoothed actions ``[S, N, A]``; every policy and state has random numbers of its own (``stream``)."""
    rng = np.random.default_rng(stream)
    drawn = [policy.draw(state.observation, samples, stream * len(states) + k) for k, state in enumerate(states)]
    return None if any(part is None for part in drawn) else smoothed(np.stack(drawn), SMOOTHING, rng)  # type: ignore[arg-type]


def _difference(apart: np.ndarray, spec: ActionSpec) -> dict[str, dict[str, float]]:
    """Of each group of the action: mean and root mean square in action units, and the mean in an arm's mm or mrad."""
    result = {}
    for name, (entries, unit, scale) in _groups(spec).items():
        distance = np.linalg.norm(apart[:, entries], axis=-1)
        result[name] = {"mean": _short(distance.mean()), "rms": _short(np.sqrt(np.square(distance).mean()))}
        if unit:
            result[name][unit] = _short(distance.mean() * scale)
    return result


def _groups(spec: ActionSpec) -> dict[str, tuple[list[int], str, float]]:
    """``{group: (entries, unit, units per 1 of the action)}``; one group of all without a gripper: it is no arm."""
    if spec.gripper is None:
        return {"action": (list(range(spec.dim)), "", 1.0)}
    rotation = list(spec.rotation)
    moved = [k for k in range(spec.dim) if k != spec.gripper and k not in rotation]
    groups = {
        "translation": (moved, "mm", 1e3 * spec.translation_m),
        "rotation": (rotation, "mrad", 1e3 * spec.rotation_rad),
        "gripper": ([spec.gripper], "", 1.0),
    }
    return {name: group for name, group in groups.items() if group[0]}


def _summary(values: np.ndarray, episodes: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Mean with the 95 % interval of a bootstrap over episodes, and median."""
    names = sorted({*episodes})
    place = np.array([names.index(episode) for episode in episodes])
    sums, counts = (np.bincount(place, weights) for weights in (values, np.ones(len(values))))
    chosen = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    return {
        "mean": _short(values.mean()),
        "ci95": [_short(bound) for bound in np.quantile(means, (0.025, 0.975))],
        "median": _short(np.median(values)),
    }


def _short(value: Any) -> float:
    return float(f"{float(value):.4g}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
