"""Any image-text-to-text model of transformers as a policy that writes OpenVLA's action tokens (Kim et al. 2024).

A prompt with the pictures goes in; the ``horizon * dim`` likeliest action tokens come out, one after the other.
OpenVLA's own checkpoints need their own code and another transformers: docs/policies.md says how they are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor

from pld_core.errors import CheckpointError
from pld_core.types import Observation
from pld_core.vla.robot_mapping import RobotMapping
from pld_core.vla.torch.action_tokens import ActionTokens, vocabulary_end
from pld_core.vla.torch.hub import load_network, loading, local_folder
from pld_core.vla.torch.inputs import Windows
from pld_core.vla.torch.normalisation import Statistics, fit_quantiles, read_json, read_statistics
from pld_core.vla.torch.policy import TorchVLA, with_fitted
from pld_core.vla.torch.settings import Source

IGNORED = -100  # a label that transformers takes no loss of
# Inputs with a value per token, and their values for a token of the answer (IGNORED: the token itself).
PER_TOKEN = {"input_ids": IGNORED, "attention_mask": 1, "token_type_ids": 1, "mm_token_type_ids": 0}


def token_vlm(argument: str) -> TokenVLM:
    """The policy ``token_vlm:PATH_OR_ID?unnorm_key=NAME`` (``Source`` has the options)."""
    return TokenVLM.from_source(Source.parse(argument))


class TokenVLM(TorchVLA):
    """A vision-language model with its processor; the proprioception is checked, but not seen by it."""

    kind = "token_vlm"

    def __init__(self, model: Any, processor: Any, mapping: RobotMapping, statistics: Statistics) -> None:
        super().__init__(model, processor, mapping, statistics)
        self.tokens = _action_tokens(model.config, mapping)

    @property
    def action_horizon(self) -> int:
        return self.mapping.horizon or 1

    def loss(self, observations: Sequence[Observation], chunks: np.ndarray, seeds: Sequence[Any]) -> torch.Tensor:
        """Negative log-likelihood per action token (nats); nothing is random."""
        answers = self.tokens.encode(self._normalised(chunks)).reshape(len(chunks), -1)
        rows = [_answered(self._row(o), torch.from_numpy(a)[None]) for o, a in zip(observations, answers, strict=True)]
        return self.model(**self._together(rows), use_cache=False).loss

    def _predict(
        self, observations: Sequence[Observation], generators: Sequence[np.random.Generator] | None = None
    ) -> np.ndarray:
        inputs = self._together([self._row(observation) for observation in observations])
        count = self.action_horizon * self.mapping.action.dim
        only = _OnlyActions(self.tokens, generators)
        written = self.model.generate(
            **inputs, max_new_tokens=count, do_sample=False, num_beams=1, logits_processor=[only]
        )
        tokens = written[:, -count:].cpu().numpy()
        return self.tokens.decode(tokens).reshape(len(observations), self.action_horizon, -1)

    def _alike(self, observation: Observation) -> str:
        return observation.instruction

    def _head(self) -> list[nn.Parameter]:
        """The output embeddings; where they are tied, the input embeddings are the same."""
        return list(self.model.get_output_embeddings().parameters())

    def _spared(self) -> nn.Module | None:
        return self.model.get_output_embeddings()

    def _fitted(self, windows: Windows) -> Statistics:
        action = self.mapping.action
        return with_fitted(
            self.statistics, action=lambda: fit_quantiles(action.to_model(windows.actions), action.gripper)
        )

    def _sizes(self) -> dict[str, tuple[int, int]]:
        dim = self.mapping.action.dim
        return {"action": (dim, dim)}

    def _settings(self) -> list[Any]:
        return [self.tokens.end]

    # -- inputs ------------------------------------------------------------------------------------

    def _row(self, observation: Observation) -> dict[str, torch.Tensor]:
        """The processor's inputs of one observation, each ``[1, ...]``."""
        pictures = [np.ascontiguousarray(image) for image in self.mapping.pictures(observation)]
        image_token = getattr(self.processor, "image_token", "<image>")
        prompt = self.mapping.tokens.prompt.format(
            image=image_token * len(pictures), instruction=observation.instruction.lower()
        )
        row = self.processor(text=[prompt], images=[pictures], return_tensors="pt")
        return {name: value for name, value in row.items() if name != "labels"}

    def _together(self, rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Rows as one batch on the network's device; shorter ones are padded behind their end."""
        longest = max(row["input_ids"].shape[1] for row in rows)
        padding = {"labels": IGNORED, "input_ids": self.processor.tokenizer.pad_token_id or 0}

        def column(name: str) -> torch.Tensor:
            values = [row[name] for row in rows]
            if name in PER_TOKEN or name == "labels":
                values = [pad(value, (0, longest - value.shape[1]), value=padding.get(name, 0)) for value in values]
            return torch.cat(values).to(self.model.device)

        return {name: column(name) for name in rows[0]}

    # -- files -------------------------------------------------------------------------------------

    @classmethod
    def from_source(cls, source: Source) -> Self:
        folder = local_folder(source.path)
        _check_own_code(folder)
        mapping = source.mapping_of(folder)
        statistics = read_statistics(folder, source.unnorm_key) or Statistics(key=source.unnorm_key)
        model = load_network(AutoModelForImageTextToText, folder, source)
        with loading(folder):
            processor = AutoProcessor.from_pretrained(source.tokenizer or folder, backend="pil")
        return cls(model, processor, mapping, statistics)


class _OnlyActions(LogitsProcessor):
    """Leaves nothing but action tokens to choose from.

    generators: one per row; with them the likeliest token is one drawn by its probability (Gumbel's noise on the
    logits: Maddison, Tarlow, Minka 2014).
    """

    def __init__(self, tokens: ActionTokens, generators: Sequence[np.random.Generator] | None = None) -> None:
        self._allowed = slice(tokens.first, tokens.end)
        self._generators = generators

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        allowed: Any = torch.full_like(scores, -torch.inf)
        allowed[:, self._allowed] = scores[:, self._allowed]
        if self._generators is not None:
            bins = self._allowed.stop - self._allowed.start
            noise = np.stack([rng.gumbel(size=bins) for rng in self._generators])
            allowed[:, self._allowed] += torch.from_numpy(noise).to(scores)
        return allowed


def _check_own_code(folder: Path) -> None:
    """transformers would ask for ``trust_remote_code``, which needs an older transformers than this one."""
    if (read_json(folder / "config.json") or {}).get("model_type") == "openvla":
        raise CheckpointError(
            f"{folder} is OpenVLA itself, whose code runs in an environment of its own: docs/policies.md says how."
        )


def _answered(row: dict[str, torch.Tensor], answer: torch.Tensor) -> dict[str, torch.Tensor]:
    """A row with the answer ``[1, n]`` behind its prompt; labels count in the answer alone."""
    ends = {n: answer if v == IGNORED else torch.full_like(answer, v) for n, v in PER_TOKEN.items() if n in row}
    longer = {name: torch.cat([row[name], end], dim=1) for name, end in ends.items()}
    labels = torch.cat([torch.full_like(row["input_ids"], IGNORED), answer], dim=1)
    return {**row, **longer, "labels": labels}


def _action_tokens(config: Any, mapping: RobotMapping) -> ActionTokens:
    image_token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    padding, rows = getattr(config, "pad_to_multiple_of", 0), config.get_text_config().vocab_size
    bins, end = mapping.tokens.bins, mapping.tokens.vocabulary
    return ActionTokens(vocabulary_end(rows, padding, image_token, bins) if end is None else end, bins)
