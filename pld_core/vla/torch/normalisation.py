"""Normalisation statistics in the files that openpi, lerobot, transformers and OpenVLA keep them in.

All of their schemes are affine, so what is kept of each is an offset and a scale per entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.errors import CheckpointError, ConfigError, UnknownNameError
from pld_core.storage import write_json

STATISTICS_FILE = "pld_statistics.json"
OPENPI_EPSILON, LEROBOT_EPSILON, OPENVLA_EPSILON = 1e-6, 1e-8, 1e-8  # what each adds to its scale
LEAST_DEVIATION = 0.05  # of fitted actions: a constant gripper must not be blown up


@dataclass(frozen=True)
class Scaling:
    """``normalised = (x - offset) / scale``, float64 ``[D]`` each."""

    offset: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        for name in ("offset", "scale"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        whole = self.offset.ndim == 1 and self.offset.shape == self.scale.shape
        if not whole or not np.isfinite([self.offset, self.scale]).all() or (self.scale <= 0).any():
            raise CheckpointError(
                f"Statistics need as many finite offsets as positive scales; got {self.offset}, {self.scale}."
            )

    @classmethod
    def mean_std(cls, mean: Any, std: Any, epsilon: float) -> Scaling:
        return cls(np.ravel(mean), np.ravel(std) + epsilon)

    @classmethod
    def bounds(cls, low: Any, high: Any, epsilon: float, mask: Any = None) -> Scaling:
        """[low, high] to [-1, 1]; entries whose ``mask`` is False stay as they are."""
        low, high = np.ravel(low).astype(float), np.ravel(high).astype(float)
        kept = np.ones(len(low), bool) if mask is None else np.ravel(mask).astype(bool)
        if not len(low) == len(high) == len(kept):
            raise CheckpointError(f"Statistics have {len(low)} low, {len(high)} high bounds, a mask of {len(kept)}.")
        return cls(np.where(kept, (low + high) / 2, 0.0), np.where(kept, (high - low + epsilon) / 2, 1.0))

    def normalise(self, x: np.ndarray) -> np.ndarray:
        """float32 ``[..., D]``."""
        return ((x - self.offset) / self.scale).astype(np.float32)

    def first(self, size: int) -> Scaling:
        return Scaling(self.offset[:size], self.scale[:size])

    def restore(self, x: np.ndarray) -> np.ndarray:
        """The inverse of ``normalise``."""
        return (x * self.scale + self.offset).astype(np.float32)


@dataclass(frozen=True)
class Statistics:
    """Of the state and of the actions in the checkpoint's units; None: not normalised, or not known yet.

    key: the name they have among several data sets (``unnorm_key``), empty where there is but one.
    """

    state: Scaling | None = None
    action: Scaling | None = None
    key: str = ""

    def of_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> Statistics:
        """Cut to the robot's entries where they cover the network's padding too, as openpi's may.

        sizes: per part, the robot's entries and the network's. Raises ConfigError where something does not fit.
        """
        for name, (own, padded) in sizes.items():
            scaling: Scaling | None = getattr(self, name)
            if own > padded:
                raise ConfigError(f"pld.yaml maps {own} entries of the {name}; the network takes at most {padded}.")
            if scaling is not None and len(scaling.offset) not in (own, padded):
                source = f" under {self.key!r}" if self.key else ""
                raise ConfigError(
                    f"The checkpoint has statistics of {len(scaling.offset)} {name} entries{source}, pld.yaml "
                    f"maps {own}. Correct `state` or `action.dim` there."
                )
        known = {name: getattr(self, name) for name in sizes}
        return replace(self, **{name: s and s.first(sizes[name][0]) for name, s in known.items()})


def read_statistics(folder: Path, unnorm_key: str = "") -> Statistics | None:
    """The statistics in a checkpoint's folder, or None.

    Looked for in this order: ``pld_statistics.json`` (what ``save`` wrote), OpenVLA's ``dataset_statistics.json``
    or its ``config.json``, lerobot's processors, openpi's ``norm_stats.json``, transformers' processor.
    Raises UnknownNameError for another ``unnorm_key``, CheckpointError for a file that lacks something.
    """
    for read in (_own, _openvla, _lerobot, _openpi, _transformers):
        found = read(folder, unnorm_key)
        if found is not None:
            return found
    return None


def write_statistics(statistics: Statistics, folder: Path) -> None:
    parts = {name: getattr(statistics, name) for name in ("state", "action")}
    rows = {name: {"offset": s.offset, "scale": s.scale} for name, s in parts.items() if s is not None}
    write_json(folder / STATISTICS_FILE, {**rows, "key": statistics.key})


def fit_mean_std(values: np.ndarray, least: float) -> Scaling:
    """Of ``[N, D]``; an entry that hardly changes keeps a scale of ``least``."""
    return Scaling(values.mean(axis=0), np.maximum(values.std(axis=0), least))


def fit_quantiles(values: np.ndarray, gripper: int | None) -> Scaling:
    """OpenVLA's: the 1st to the 99th percentile of ``[N, D]``; a gripper is not masked in, it stays as it is."""
    low, high = np.quantile(values, 0.01, axis=0), np.quantile(values, 0.99, axis=0)
    spread = np.maximum(high - low, LEAST_DEVIATION)
    return Scaling.bounds((low + high - spread) / 2, (low + high + spread) / 2, 0.0, np.arange(len(low)) != gripper)


def _own(folder: Path, unnorm_key: str) -> Statistics | None:
    if (data := read_json(folder / STATISTICS_FILE)) is None:
        return None
    _chosen(unnorm_key, [data["key"]], folder)
    return Statistics(**{name: Scaling(**data[name]) for name in ("state", "action") if name in data}, key=data["key"])


def _openvla(folder: Path, unnorm_key: str) -> Statistics | None:
    path = folder / "dataset_statistics.json"
    data = read_json(path)
    if data is None:
        path = folder / "config.json"
        data = (read_json(path) or {}).get("norm_stats")
    if not data:
        return None
    key = _chosen(unnorm_key, data, folder)
    row = _entry(data[key], "action", path)
    low, high = _entry(row, "q01", path), _entry(row, "q99", path)
    return Statistics(None, Scaling.bounds(low, high, OPENVLA_EPSILON, row.get("mask")), key)


def _lerobot(folder: Path, unnorm_key: str) -> Statistics | None:
    """The normaliser step of ``policy_preprocessor.json`` and the safetensors file that it names."""
    if (data := read_json(folder / "policy_preprocessor.json")) is None:
        return None
    steps = [s for s in data.get("steps", []) if s.get("registry_name") == "normalizer_processor"]
    if not steps or "state_file" not in steps[0]:
        return None
    from safetensors.numpy import load_file

    config, path = steps[0].get("config", {}), folder / steps[0]["state_file"]
    try:
        tensors = load_file(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}, named for the statistics, cannot be read: {error}.") from error
    modes, epsilon = config.get("norm_map", {}), config.get("eps", LEROBOT_EPSILON)
    _chosen(unnorm_key, [""], folder)
    return Statistics(
        _lerobot_scaling(tensors, "observation.state", modes.get("STATE", "IDENTITY"), epsilon, path),
        _lerobot_scaling(tensors, "action", modes.get("ACTION", "IDENTITY"), epsilon, path),
    )


def _lerobot_scaling(tensors: Mapping[str, Any], feature: str, mode: str, epsilon: float, path: Path) -> Scaling | None:
    if mode == "IDENTITY" or not any(name.startswith(f"{feature}.") for name in tensors):
        return None  # lerobot itself passes on what it has no statistics of
    pairs = {"MEAN_STD": "mean std", "MIN_MAX": "min max", "QUANTILES": "q01 q99", "QUANTILE10": "q10 q90"}
    if mode not in pairs:
        raise UnknownNameError(f"normalisation of {feature} in {path.parent}", mode, [*pairs, "IDENTITY"])
    first, second = (_entry(tensors, f"{feature}.{name}", path) for name in pairs[mode].split())
    if mode == "MEAN_STD":
        return Scaling.mean_std(first, second, epsilon)
    return Scaling.bounds(first, np.where(first == second, second + epsilon, second), 0.0)


def _openpi(folder: Path, unnorm_key: str) -> Statistics | None:
    """``norm_stats.json`` beside the weights, or under ``assets/NAME`` where NAME counts as ``unnorm_key``."""
    assets = {str(p.parent.relative_to(folder / "assets")): p for p in folder.glob("assets/**/norm_stats.json")}
    if (beside := folder / "norm_stats.json").exists():
        assets = {"": beside}
    if not assets:
        return None
    key = _chosen(unnorm_key, assets, folder)
    rows = _entry(read_json(assets[key]) or {}, "norm_stats", assets[key])
    parts = {
        name: Scaling.mean_std(_entry(row, "mean", assets[key]), _entry(row, "std", assets[key]), OPENPI_EPSILON)
        for name, row in ((name, _entry(rows, name, assets[key])) for name in ("state", "actions"))
    }
    return Statistics(parts["state"], parts["actions"], key)


def _transformers(folder: Path, unnorm_key: str) -> Statistics | None:
    """What ``PI0Processor`` keeps in ``processor_config.json``."""
    data = read_json(folder / "processor_config.json") or {}
    if data.get("actions_mean") is None:
        return None
    path = folder / "processor_config.json"
    _chosen(unnorm_key, [""], folder)
    state, action = (
        Scaling.mean_std(_entry(data, f"{name}_mean", path), _entry(data, f"{name}_std", path), LEROBOT_EPSILON)
        for name in ("state", "actions")
    )
    return Statistics(state, action)


def _chosen(key: str, names: Iterable[str], folder: Path) -> str:
    """``key`` if it is one of ``names``, or their only one where none is asked for."""
    valid = sorted(names)
    if not key and len(valid) == 1:
        return valid[0]
    if not key:
        raise ConfigError(f"{folder} has statistics of {', '.join(valid)}; say which with ?unnorm_key=NAME.")
    if key not in valid:
        raise UnknownNameError(f"unnorm_key of {folder}", key, filter(None, valid))
    return key


def _entry(data: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in data:
        raise CheckpointError(f"{path} has no {key!r}; it has {', '.join(map(str, data)) or 'nothing'}.")
    return data[key]


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
