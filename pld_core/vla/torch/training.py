"""One training loop for all networks in PyTorch: AdamW, warm-up and cosine decay, resumable, deterministic.

Everything random is a pure function of (seed, step, row), so a run that continues from its saved state ends where
one that was never interrupted does. There is no dropout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pld_core.checkpoint import load_checkpoint, previous_path, save_checkpoint
from pld_core.errors import CheckpointError, NonFiniteError
from pld_core.vla.training import Progress, TrainConfig

Loss = Callable[[int, slice], torch.Tensor]
"""``loss(step, rows)``: the mean over these rows of the step's batch, with a gradient."""


def fit(
    loss: Loss,
    parameters: Sequence[nn.Parameter],
    config: TrainConfig,
    *,
    micro_batch: int,
    fingerprint: str = "",
    state_path: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Minimise ``loss`` over ``parameters`` (float32), in place.

    micro_batch: rows per gradient call, of which a step sums several: less memory, nearly the same numbers.
    state_path: where the state is saved every ``config.save_every`` steps and continued from; fingerprint: what else
    it depends on. Raises NonFiniteError when the loss is no number, CheckpointError for another run's state.
    """
    run = _Run(list(parameters), config, f"{_settings(config)} {fingerprint}")
    step = run.resume(state_path)
    while step < config.steps:
        value = run.step(loss, step, micro_batch)
        step += 1
        if progress is not None:
            progress(step, value)
        if state_path is not None and (step == config.steps or step % config.save_every == 0):
            run.save(Path(state_path), step)
    if config.ema:
        run.take(run.average)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to zero, as for CompactVLA."""
    warmup = int(config.warmup * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(config.steps - warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


@contextlib.contextmanager
def trained_in_float32(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Small steps are lost in bfloat16: parameters are float32 inside, and as they were afterwards."""
    precisions = [parameter.dtype for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    yield
    for parameter, precision in zip(parameters, precisions, strict=True):
        parameter.data = parameter.data.to(precision)


class _Run:
    def __init__(self, parameters: list[nn.Parameter], config: TrainConfig, fingerprint: str) -> None:
        self.parameters, self.config, self.fingerprint = parameters, config, fingerprint
        self.optimiser = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self.average = [parameter.detach().clone() for parameter in parameters] if config.ema else []

    def step(self, loss: Loss, step: int, micro_batch: int) -> float:
        self.optimiser.zero_grad()
        rows, total = self.config.batch_size, 0.0
        for start in range(0, rows, micro_batch):
            piece = slice(start, min(start + micro_batch, rows))
            share = loss(step, piece) * ((piece.stop - piece.start) / rows)
            share.backward()
            total += float(share.detach())
        if not math.isfinite(total):
            raise NonFiniteError(f"The loss became {total} at step {step}; lower the learning rate.")
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.config, step)
        self.optimiser.step()
        decay = min(self.config.ema, (1.0 + step) / (10.0 + step))  # short memory at first
        for average, parameter in zip(self.average, self.parameters):
            average.lerp_(parameter.detach(), 1.0 - decay)
        return total

    def take(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data.copy_(value)

    def save(self, path: Path, step: int) -> None:
        moments = self.optimiser.state_dict()["state"]  # of those that ever had a gradient
        arrays = {
            "parameters": _numbered(self.parameters),
            "average": _numbered(self.average),
            "moments": {str(i): {k: _array(v) for k, v in row.items()} for i, row in moments.items()},
        }
        save_checkpoint(path, arrays, {"kind": "torch_training", "fingerprint": self.fingerprint, "step": step})

    def resume(self, path: Path | None) -> int:
        """Steps done by the run whose state lies there; 0 where there is none."""
        if path is None or not (Path(path).exists() or previous_path(path).exists()):
            return 0
        arrays, metadata = load_checkpoint(path)
        if metadata.get("kind") != "torch_training" or metadata.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{path} belongs to another training run (other settings, data or base weights); remove it to start "
                "over."
            )
        self.take([torch.from_numpy(arrays["parameters"][str(i)]) for i in range(len(self.parameters))])
        for i, average in enumerate(self.average):
            average.copy_(torch.from_numpy(arrays["average"][str(i)]))
        moments = {int(i): {k: torch.from_numpy(v) for k, v in row.items()} for i, row in arrays["moments"].items()}
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        return int(metadata["step"])


def _settings(config: TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(config).items() if k != "save_every"}


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _numbered(tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    return {str(i): _array(tensor) for i, tensor in enumerate(tensors)}
