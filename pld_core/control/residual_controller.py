"""Base action + scaled residual + limits: the tick that runs in simulation and on robots alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pld_core.control.checks import check_chunk, check_observation
from pld_core.control.chunk_cursor import ChunkCursor
from pld_core.control.safety import SafetyLimits
from pld_core.errors import ContractError, PolicyUnavailableError
from pld_core.interfaces import BasePolicy, ResidualActor
from pld_core.types import BASE_TICK, RESIDUAL_TICK, ActionChunk, EpisodeSpec, Observation, ObservationSpec


@dataclass(frozen=True)
class Tick:
    """All that was decided at one tick. state ``[S]``; the others ``[A]``, see types.Episode."""

    state: np.ndarray
    base_action: np.ndarray
    residual: np.ndarray
    action: np.ndarray
    source: int


@dataclass
class _Lane:
    cursor: ChunkCursor
    spec: EpisodeSpec
    tick: int = 0
    chunk: ActionChunk | None = None  # the base's last answer
    planned_at: np.ndarray | None = None  # proprioception then


class ResidualController:
    """Turns observations into executed actions for one robot or for many simulated lanes at once.

    replan_every: ticks that a chunk of the base serves; the base is asked for no more. Where that is more than one,
    the residual also sees how the proprioception has changed since: the base's features are of that time.
    features: how many of the leading entries of the policy's features the residual sees (None: all).
    observation_spec: what every observation is checked against (None: only that it is finite).
    ``residual=False`` serves the learners without a base (RLPD and the like): the actor's output is
    the action itself.
    """

    def __init__(
        self,
        policy: BasePolicy,
        limits: SafetyLimits,
        lanes: int = 1,
        replan_every: int = 1,
        residual: bool = True,
        features: int | None = None,
        observation_spec: ObservationSpec | None = None,
    ) -> None:
        self.policy = policy
        self.limits = limits
        self.residual = residual
        self._features, self._sees_change = features, replan_every > 1
        self._observation_spec = observation_spec
        self._dim = limits.action_spec.dim
        idle = EpisodeSpec(task="", seed=0)
        self._lanes = [
            _Lane(ChunkCursor(replan_every, self._dim, limits.action_spec.gripper), idle) for _ in range(lanes)
        ]

    def state_dim(self, spec: ObservationSpec) -> int:
        """Size ``S`` of a tick's state for observations of ``spec``."""
        features = self.policy.feature_dim if self._features is None else min(self._features, self.policy.feature_dim)
        return spec.proprio_dim * (1 + self._sees_change) + features + self.policy.action_horizon * self._dim

    def reset(self, lane: int, spec: EpisodeSpec) -> None:
        self._lanes[lane].cursor.reset()
        self._lanes[lane].spec = spec
        self._lanes[lane].tick = 0

    def replan(self, lane: int) -> None:
        """Forget the base's plan: the next tick asks for a new one."""
        self._lanes[lane].cursor.reset()

    def tick(
        self, lanes: Sequence[int], observations: Sequence[Observation], actor: ResidualActor | None = None
    ) -> list[Tick]:
        """Decide for the given lanes; observations in the same order. Raises the first fault of any lane."""
        outcomes = self.attempt(lanes, observations, actor)
        for outcome in outcomes:
            if isinstance(outcome, ContractError):
                raise outcome
        return cast(list[Tick], outcomes)

    def attempt(
        self, lanes: Sequence[int], observations: Sequence[Observation], actor: ResidualActor | None = None
    ) -> list[Tick | ContractError]:
        """As ``tick``, but a lane whose observation or chunk is faulty gets its fault in place of a tick
        and stays where it was; the others go on as if it were not there."""
        chunks = self._chunks(lanes, observations)
        sound = [(k, chunk) for k, chunk in enumerate(chunks) if not isinstance(chunk, ContractError)]
        seen, where = [observations[k] for k, _ in sound], [lanes[k] for k, _ in sound]
        ticks = iter(self._decide(where, seen, [chunk for _, chunk in sound], actor) if sound else [])
        return [chunk if isinstance(chunk, ContractError) else next(ticks) for chunk in chunks]

    def _chunks(self, lanes: Sequence[int], observations: Sequence[Observation]) -> list[ActionChunk | ContractError]:
        """The base's answer, or the fault, for each observation; its last answer where that serves on."""
        chunks: list[ActionChunk | ContractError | None] = [
            _fault(check_observation, seen, self._observation_spec) or self._serving(lane)
            for lane, seen in zip(lanes, observations, strict=True)
        ]
        wanted = [k for k, chunk in enumerate(chunks) if chunk is None]
        for k, chunk in zip(wanted, self._infer([observations[k] for k in wanted]) if wanted else [], strict=True):
            chunks[k] = chunk
        return cast(list[ActionChunk | ContractError], chunks)

    def _serving(self, lane: int) -> ActionChunk | None:
        return None if self._lanes[lane].cursor.wants_chunk else self._lanes[lane].chunk

    def _infer(self, observations: Sequence[Observation]) -> list[ActionChunk | ContractError]:
        """A policy that refuses a batch is asked one by one: by its contract no answer changes with that."""
        try:
            chunks = self.policy.infer(observations)
            if len(chunks) != len(observations):
                raise ContractError(
                    f"The base policy (version {self.policy.version}) answered {len(chunks)} chunks for "
                    f"{len(observations)} observations; infer() must answer one for each."
                )
        except PolicyUnavailableError as fault:
            return [fault] * len(observations)
        except ContractError as fault:
            if len(observations) == 1:
                return [fault]
            return [self._infer([seen])[0] for seen in observations]
        return [_fault(check_chunk, chunk, self.policy, self._dim) or chunk for chunk in chunks]

    def _decide(
        self,
        lanes: Sequence[int],
        observations: Sequence[Observation],
        chunks: Sequence[ActionChunk],
        actor: ResidualActor | None,
    ) -> list[Tick]:
        states, base = self._base(lanes, observations, chunks)
        active = [k for k, lane in enumerate(lanes) if self._residual_active(lane, actor)]
        residual = np.zeros((len(lanes), self._dim), np.float32)
        if active and actor is not None:
            residual[active] = self._act(lanes, observations, states, base, actor)[active]
        ticks = []
        for k, lane in enumerate(lanes):
            action = self._combine(base[k], residual[k], self._lanes[lane].spec.xi) if k in active else base[k]
            safe = self.limits.apply(action, observations[k].proprio[:3], observations[k].proprio[3:6])
            source = RESIDUAL_TICK if k in active else BASE_TICK
            ticks.append(Tick(states[k], base[k], residual[k], safe, source))
            self._lanes[lane].tick += 1
        return ticks

    def _base(
        self, lanes: Sequence[int], observations: Sequence[Observation], chunks: Sequence[ActionChunk]
    ) -> tuple[np.ndarray, np.ndarray]:
        states, base = [], []
        for index, observation, chunk in zip(lanes, observations, chunks, strict=True):
            lane = self._lanes[index]
            if lane.cursor.wants_chunk:
                lane.chunk, lane.planned_at = chunk, observation.proprio
                lane.cursor.offer(chunk)
            seen = [observation.proprio, chunk.features[: self._features]]
            if self._sees_change:
                seen.insert(1, observation.proprio - lane.planned_at)
            plan = lane.cursor.plan(self.policy.action_horizon)
            states.append(np.concatenate([*seen, plan.reshape(-1)]))
            base.append(lane.cursor.next())
        return np.stack(states).astype(np.float32), np.stack(base).astype(np.float32)

    def _residual_active(self, lane: int, actor: ResidualActor | None) -> bool:
        spec, tick = self._lanes[lane].spec, self._lanes[lane].tick
        return actor is not None and spec.t_base is not None and tick >= spec.t_base

    def _act(
        self,
        lanes: Sequence[int],
        observations: Sequence[Observation],
        states: np.ndarray,
        base: np.ndarray,
        actor: ResidualActor,
    ) -> np.ndarray:
        """Residuals of all lanes; those that explore draw noise from their own seed and tick."""
        images = {name: np.stack([o.images[name] for o in observations]) for name in observations[0].images}
        mode = actor.act(states, base, images, None)
        exploring = np.array([self._lanes[lane].spec.explore for lane in lanes])
        if not exploring.any():
            return mode
        seeds = np.array([_noise_seed(self._lanes[lane]) for lane in lanes])
        return np.where(exploring[:, None], actor.act(states, base, images, seeds), mode)

    def _combine(self, base: np.ndarray, residual: np.ndarray, xi: float) -> np.ndarray:
        return np.clip(base + np.float32(xi) * residual, -1.0, 1.0) if self.residual else residual


def _noise_seed(lane: _Lane) -> np.uint32:
    """A number that mixes episode and time, so that noise never depends on neighbours or order."""
    seed, time = lane.spec.seed, lane.tick // lane.spec.noise_ticks
    mixed = (seed * 2654435761 + time * 2246822519 + 374761393) & 0xFFFFFFFF
    mixed ^= mixed >> 15
    return np.uint32((mixed * 3266489917) & 0xFFFFFFFF)


def _fault(check: Callable[..., None], *arguments: Any) -> ContractError | None:
    try:
        check(*arguments)
    except ContractError as fault:
        return fault
    return None
