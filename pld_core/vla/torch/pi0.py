"""pi0 (Black et al. 2024) in this process, over ``PI0ForConditionalGeneration`` of transformers.

Checkpoints: of transformers, of lerobot (``lerobot/pi0_base``; transformers knows its names of the weights) and of
openpi's conversion to PyTorch. The prefix (pictures, instruction) is run once per observation and cached; ten steps
of flow matching denoise the chunk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PI0Config, PI0ForConditionalGeneration

from pld_core.errors import CheckpointError, ConfigError, ContractError
from pld_core.types import Observation
from pld_core.vla.robot_mapping import RobotMapping
from pld_core.vla.torch.hub import load_network, loading, local_folder
from pld_core.vla.torch.inputs import Windows, content_seed, resize_with_pad
from pld_core.vla.torch.normalisation import LEAST_DEVIATION, Statistics, fit_mean_std, read_statistics
from pld_core.vla.torch.policy import TorchVLA, with_fitted
from pld_core.vla.torch.settings import Source

TOKENIZER = "google/paligemma-3b-pt-224"  # lerobot's and openpi's checkpoints carry none
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # the pictures of openpi's models, in order
INSTRUCTION_TOKENS = 48  # as pi0 was trained; shorter instructions are padded
VARIANTS = {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}  # what PI0Config stands for


def pi0(argument: str) -> Pi0:
    """The policy ``pi0:PATH_OR_ID?option=value`` (``Source`` has the options)."""
    return Pi0.from_source(Source.parse(argument))


class Pi0(TorchVLA):
    """A pi0 network, its tokenizer and a mapping whose cameras are in the network's order."""

    kind = "pi0"
    model: PI0ForConditionalGeneration

    def __init__(self, model: Any, processor: Any, mapping: RobotMapping, statistics: Statistics) -> None:
        """processor: the tokenizer alone."""
        super().__init__(model, processor, mapping, statistics)
        self._tokens = lru_cache(1000)(self._tokenised)
        if self.action_horizon > self.trained_horizon:
            raise ConfigError(f"horizon {mapping.horizon} in pld.yaml is beyond the chunk of {self.trained_horizon}.")

    @property
    def action_horizon(self) -> int:
        return self.mapping.horizon or self.model.config.chunk_size

    @property
    def trained_horizon(self) -> int:
        return self.model.config.chunk_size

    def loss(self, observations: Sequence[Observation], chunks: np.ndarray, seeds: Sequence[Any]) -> torch.Tensor:
        """Flow matching: the squared error of the velocity ``noise - actions``, padded entries included."""
        config, generators = self.model.config, [np.random.default_rng(seed) for seed in seeds]
        beta = config.time_sampling_beta_alpha, config.time_sampling_beta_beta
        times = np.array([rng.beta(*beta) for rng in generators])
        output = self.model(
            **self._inputs(observations),
            actions=self._padded(self._normalised(chunks), config.max_action_dim),
            noise=self._noise(generators),
            timestep=self._tensor(times * config.time_sampling_scale + config.time_sampling_offset),
        )
        return output.loss

    def _predict(
        self, observations: Sequence[Observation], generators: Sequence[np.random.Generator] | None = None
    ) -> np.ndarray:
        if generators is None:
            generators = [np.random.default_rng(content_seed(o, self.mapping)) for o in observations]
        inputs: dict[str, Any] = self._inputs(observations)
        actions = self.model.sample_actions(**inputs, noise=self._noise(generators))
        return actions[..., : self.mapping.action.dim].float().cpu().numpy()

    def _head(self) -> list[nn.Parameter]:
        """All but the vision-language model, as lerobot's ``train_expert_only``; the expert embeds no words."""
        return [
            parameter
            for name, parameter in self.model.named_parameters()
            if not name.startswith("model.vlm.") and "embed_tokens" not in name
        ]

    def _fitted(self, windows: Windows) -> Statistics:
        columns = slice(None) if self.mapping.state is None else list(self.mapping.state)
        return with_fitted(
            self.statistics,
            state=lambda: fit_mean_std(windows.proprio[:, columns], 1e-2),
            action=lambda: fit_mean_std(self.mapping.action.to_model(windows.actions), LEAST_DEVIATION),
        )

    def _sizes(self) -> dict[str, tuple[int, int]]:
        mapping, config = self.mapping, self.model.config
        state = mapping.proprio_dim if mapping.state is None else len(mapping.state)
        return {"state": (state, config.max_state_dim), "action": (mapping.action.dim, config.max_action_dim)}

    def _settings(self) -> list[Any]:
        return [self.model.config.num_inference_steps]

    # -- inputs ------------------------------------------------------------------------------------

    def _inputs(self, observations: Sequence[Observation]) -> dict[str, torch.Tensor]:
        prefix: Any = self.model.config.vlm_config
        vision, cameras = prefix.vision_config, len(self.mapping.cameras)
        picture_tokens = [prefix.image_token_id] * (cameras * (vision.image_size // vision.patch_size) ** 2)
        words = [self._tokens(observation.instruction) for observation in observations]
        ids = np.array([picture_tokens + list(tokens) for tokens, _ in words])
        mask = np.array([[1] * len(picture_tokens) + [1] * length + [0] * (len(t) - length) for t, length in words])
        pictures = [[resize_with_pad(i, vision.image_size) for i in self.mapping.pictures(o)] for o in observations]
        state, scaling = np.stack([self.mapping.state_of(o) for o in observations]), self.statistics.state
        state = state if scaling is None else scaling.normalise(state)
        return {
            "state": self._padded(state, self.model.config.max_state_dim),
            "input_ids": torch.from_numpy(ids).to(self.model.device),
            "attention_mask": torch.from_numpy(mask).to(self.model.device),
            "pixel_values": self._tensor(np.array(pictures).transpose(0, 1, 4, 2, 3) / 127.5 - 1.0),
            "pixel_attention_mask": torch.ones(len(ids), cameras, dtype=torch.bool, device=self.model.device),
        }

    def _tokenised(self, instruction: str) -> tuple[tuple[int, ...], int]:
        """INSTRUCTION_TOKENS ids, and how many of them are not padding; the line's end marks the answer's start."""
        text = instruction.strip().replace("_", " ").replace("\n", " ")
        ids = [self.processor.bos_token_id, *self.processor(f"{text}\n", add_special_tokens=False)["input_ids"]]
        if len(ids) > INSTRUCTION_TOKENS:
            raise ContractError(
                f"The instruction {text!r} has {len(ids)} tokens, pi0 reads {INSTRUCTION_TOKENS}; shorten it."
            )
        return (*ids, *[0] * (INSTRUCTION_TOKENS - len(ids))), len(ids)

    def _noise(self, generators: Sequence[np.random.Generator]) -> torch.Tensor:
        shape = (self.model.config.chunk_size, self.model.config.max_action_dim)
        return self._tensor(np.stack([rng.standard_normal(shape) for rng in generators]))

    def _padded(self, values: np.ndarray, size: int) -> torch.Tensor:
        """Zeros behind the last axis up to ``size``."""
        return self._tensor(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, size - values.shape[-1])]))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.model.device)

    # -- files -------------------------------------------------------------------------------------

    @classmethod
    def from_source(cls, source: Source) -> Self:
        folder = local_folder(source.path)
        config, slots = _configuration(folder)
        mapping = source.mapping_of(folder).in_slots(slots, str(folder))
        statistics = read_statistics(folder, source.unnorm_key) or Statistics()
        model = load_network(PI0ForConditionalGeneration, folder, source, config=config)
        own = (folder / "tokenizer_config.json").exists()
        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(source.tokenizer or (folder if own else TOKENIZER))
        return cls(model, tokenizer, mapping, statistics)


def _configuration(folder: Path) -> tuple[PI0Config, tuple[str, ...]]:
    """The network's sizes and the names of its pictures, from any of the three kinds of ``config.json``."""
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. It must lie beside the weights.") from error
    if "model_type" in data:
        if data["model_type"] != "pi0":
            raise CheckpointError(f"{path} is of a {data['model_type']!r} network, not of pi0.")
        return PI0Config.from_pretrained(folder), SLOTS
    for key, expected in VARIANTS.items():
        if data.get(key, expected) != expected or data.get("type", "pi0") != "pi0":
            raise CheckpointError(f"{path} has {key} {data.get(key)!r}, type {data.get('type')!r}; only pi0 is known.")
    shared = {name for name in PI0Config().to_dict() if not name.startswith("_")} - {"dtype"}
    sizes = {name: value for name, value in data.items() if name in shared}
    if "action_horizon" in data:  # openpi's names
        sizes |= {"chunk_size": data["action_horizon"], "max_action_dim": data["action_dim"]}
        sizes["max_state_dim"] = data["action_dim"]
    names = [name for name, row in data.get("input_features", {}).items() if row.get("type") == "VISUAL"]
    with loading(folder):
        return PI0Config(**sizes), tuple(names) or SLOTS
