"""What VLAs in PyTorch share: answering in blocks, fine-tuning in three modes, folders in the hub's format."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from pld_core.errors import ConfigError, NonFiniteError
from pld_core.types import ActionChunk, Episode, Observation
from pld_core.vla.robot_mapping import RobotMapping, plain, write_mapping
from pld_core.vla.sft import MODES, Mode
from pld_core.vla.torch.hub import save_folder, version_of
from pld_core.vla.torch.inputs import Windows
from pld_core.vla.torch.lora import add_adapters, merge_adapters
from pld_core.vla.torch.normalisation import Statistics, write_statistics
from pld_core.vla.torch.settings import Source
from pld_core.vla.torch.training import fit, trained_in_float32
from pld_core.vla.training import Progress, TrainConfig


class TorchVLA(ABC):
    """A network of transformers as ``BasePolicy`` and ``TrainableVLA``. Immutable; no features.

    Actions pass through three forms: PLD's (in [-1, 1]), the checkpoint's units (``RobotMapping.action``), and
    normalised (``Statistics``), which is what the network knows.
    """

    kind: ClassVar[str]
    feature_dim = 0

    def __init__(self, model: Any, processor: Any, mapping: RobotMapping, statistics: Statistics) -> None:
        """processor: of transformers, saved beside the network. Raises ConfigError where the four do not fit."""
        self.model, self.processor = model.requires_grad_(False).eval(), processor
        self.mapping = mapping
        self.statistics = statistics.of_sizes(self._sizes())

    @cached_property
    def version(self) -> str:
        """Hash of weights, mapping and statistics; seconds for a large network."""
        settings = [self.kind, plain(self.mapping), plain(self.statistics), *self._settings()]
        return version_of(self.model, settings)

    # -- what a kind of network has to say ---------------------------------------------------------

    @property
    @abstractmethod
    def action_horizon(self) -> int: ...

    @property
    def trained_horizon(self) -> int:
        """Actions of a chunk in training, where the network predicts more than the policy gives."""
        return self.action_horizon

    @abstractmethod
    def loss(self, observations: Sequence[Observation], chunks: np.ndarray, seeds: Sequence[Any]) -> torch.Tensor:
        """Mean loss of PLD's chunks ``[B, trained_horizon, A]``; what is random in row b comes from ``seeds[b]``."""

    @abstractmethod
    def _predict(
        self, observations: Sequence[Observation], generators: Sequence[np.random.Generator] | None = None
    ) -> np.ndarray:
        """Normalised actions ``[B, H, D]``, D at least the mapping's dim, for observations that are ``_alike``.

        generators: of each row's random numbers where it is drawn from the network's distribution; None: the answer.
        """

    @abstractmethod
    def _head(self) -> list[nn.Parameter]:
        """What mode ``head`` trains."""

    @abstractmethod
    def _fitted(self, windows: Windows) -> Statistics:
        """The statistics, those that the checkpoint lacks taken from ``windows``."""

    @abstractmethod
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Entries of "state" and "action": those of the robot, and those that the network is padded to."""

    @classmethod
    @abstractmethod
    def from_source(cls, source: Source) -> Self:
        """The policy of a checkpoint; CheckpointError or ConfigError with what is missing."""

    def _spared(self) -> nn.Module | None:
        """A linear layer that gets no adapter."""
        return None

    def _settings(self) -> list[Any]:
        """What else decides the policy's answers, in JSON types."""
        return []

    def _alike(self, observation: Observation) -> Hashable:
        """Only observations with equal values share a call of the network, so none is padded to another's length."""
        return None

    # -- inference ---------------------------------------------------------------------------------

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation; raises ContractError for one that does not fit the mapping."""
        for index, observation in enumerate(observations):
            self.mapping.check(observation, f"Observation {index}")
        groups: dict[Hashable, list[int]] = {}
        for index, observation in enumerate(observations):
            groups.setdefault(self._alike(observation), []).append(index)
        actions: dict[int, np.ndarray] = {}
        for group in groups.values():
            for start in range(0, len(group), self.mapping.batch):
                block = group[start : start + self.mapping.batch]
                actions |= zip(block, self._block([observations[i] for i in block]))
        return [self._chunk(actions[i], observation) for i, observation in enumerate(observations)]

    def sample(self, observation: Observation, count: int, seed: int) -> list[ActionChunk]:
        """``count`` independent chunks from the network's distribution; see ``interfaces.SamplingPolicy``."""
        self.mapping.check(observation, "The observation")
        batch = self.mapping.batch
        drawn: list[np.ndarray] = []
        for start in range(0, count, batch):
            generators = [np.random.default_rng((seed, index)) for index in range(start, start + batch)]
            drawn += list(self._block([observation] * batch, generators))
        return [self._chunk(actions, observation) for actions in drawn[:count]]

    def _block(
        self, observations: list[Observation], generators: Sequence[np.random.Generator] | None = None
    ) -> np.ndarray:
        """Actions ``[B, H, A]``; the block is filled with copies, since another size may change the last bits."""
        padded = [*observations, *[observations[-1]] * (self.mapping.batch - len(observations))]
        with torch.no_grad(), self._precision():
            normalised = self._predict(padded, generators)[: len(observations), : self.action_horizon]
        if not np.isfinite(normalised).all():
            raise NonFiniteError(f"Policy {self.version} produced NaN or infinity; its weights are unusable.")
        scaling = self.statistics.action
        return self.mapping.action.from_model(normalised if scaling is None else scaling.restore(normalised))

    def _chunk(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        stamp_ns = max(observation.stamp_ns.values(), default=0)
        return ActionChunk(actions, np.zeros(0, np.float32), self.version, stamp_ns)

    def _normalised(self, chunks: np.ndarray) -> np.ndarray:
        actions, scaling = self.mapping.action.to_model(chunks), self.statistics.action
        return actions if scaling is None else scaling.normalise(actions)

    def _precision(self) -> torch.autocast:
        """Where the weights are bfloat16, so are products; sums of moves and losses stay float32."""
        low = any(p.dtype == torch.bfloat16 for p in self.model.parameters())
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=low)

    # -- fine-tuning -------------------------------------------------------------------------------

    def sft(
        self,
        episodes: Sequence[Episode],
        *,
        mode: Mode = "lora",
        rank: int = 32,
        micro_batch: int = 8,
        gripper: int | None = None,
        every: int = 1,
        state_path: Path | None = None,
        progress: Progress | None = None,
        grounding_labels: Any = None,
        grounding_weight: float = 0.0,
        **options: Any,
    ) -> Self:
        """Fine-tune on the executed actions of ``episodes``; returns a new policy, this one stays as it is.

        mode: ``head``, ``full`` or ``lora`` (adapters of ``rank``, merged at the end). options: fields of
        ``TrainConfig``. gripper, every, state_path, progress: as for CompactVLA. micro_batch: rows per gradient call.
        Statistics that the checkpoint lacks are taken from these episodes. Grounding does not apply here.
        """
        if mode not in MODES:
            raise ConfigError(f"sft mode {mode!r} does not exist; valid: {', '.join(MODES)}.")
        if micro_batch < 1:
            raise ConfigError(f"sft needs micro_batch >= 1, got {micro_batch}.")
        config = TrainConfig.of(options)
        windows = Windows.of(episodes, self.mapping, self.trained_horizon, gripper, every)
        star = self._with(copy.deepcopy(self.model), self._fitted(windows))
        precision = star._precision()
        parameters = star._trainable(mode, rank, config.seed)

        def loss(step: int, rows: slice) -> torch.Tensor:
            observations, chunks = windows.batch(config.batch_size, config.seed, step)
            seeds = [(config.seed, step, row) for row in range(config.batch_size)]
            with precision:
                return star.loss(observations[rows], chunks[rows], seeds[rows])

        with trained_in_float32(parameters):
            fit(
                loss, parameters, config, micro_batch=micro_batch, state_path=state_path, progress=progress,
                fingerprint=f"{self.version} {len(windows)} {mode} rank {rank}",
            )  # fmt: skip
        merge_adapters(star.model)
        return self._with(star.model, star.statistics)

    def _trainable(self, mode: Mode, rank: int, seed: int) -> list[nn.Parameter]:
        if mode == "lora":
            return add_adapters(self.model, rank, seed, self._spared())
        chosen = self._head() if mode == "head" else list(self.model.parameters())
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    def _with(self, model: Any, statistics: Statistics) -> Self:
        """The same kind of policy around another network."""
        return type(self)(model, self.processor, self.mapping, statistics)

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """A folder as transformers loads it, with ``pld.yaml`` and ``pld_statistics.json``; an old one is replaced."""

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_mapping(self.mapping, folder)
            write_statistics(self.statistics, folder)

        save_folder(Path(path), write)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What ``save`` wrote."""
        return cls.from_source(Source(str(path)))


def with_fitted(statistics: Statistics, **fitted: Any) -> Statistics:
    """``statistics`` with what is None in it taken from ``fitted``, callables that answer a Scaling."""
    missing = {name: fit() for name, fit in fitted.items() if getattr(statistics, name) is None}
    return replace(statistics, **missing)
