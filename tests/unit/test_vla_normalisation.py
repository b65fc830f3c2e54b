"""Statistics as openpi, lerobot, transformers and OpenVLA keep them, read to the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pld_core.errors import CheckpointError, ConfigError, UnknownNameError
from pld_core.vla.torch.normalisation import (
    Scaling,
    Statistics,
    fit_mean_std,
    fit_quantiles,
    read_statistics,
    write_statistics,
)

_STATE = {"mean": [1.0, 2.0], "std": [0.5, 4.0], "q01": [0.0, -3.0], "q99": [2.0, 9.0]}
_ACTION = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "q01": [-1.0, -2.0, 0.0], "q99": [1.0, 6.0, 1.0]}


def _write(folder: Path, name: str, data: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def _lerobot(folder: Path, norm_map: dict[str, str], features: dict[str, Any]) -> None:
    save_file = pytest.importorskip("safetensors.numpy", reason="needs the extra 'torch'").save_file
    name = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    save_file({f"{f}.{k}": np.float32(v) for f, row in features.items() for k, v in row.items()}, folder / name)
    step = {"registry_name": "normalizer_processor", "config": {"eps": 1e-8, "norm_map": norm_map}, "state_file": name}
    _write(folder, "policy_preprocessor.json", {"name": "policy_preprocessor", "steps": [{"config": {}}, step]})


def _read(folder: Path, unnorm_key: str = "") -> Statistics:
    found = read_statistics(folder, unnorm_key)
    assert found is not None
    return found


def test_a_folder_without_statistics(tmp_path: Path) -> None:
    _write(tmp_path, "config.json", {"model_type": "llava"})
    assert read_statistics(tmp_path) is None


def test_openpi(tmp_path: Path) -> None:
    _write(tmp_path, "assets/trossen/norm_stats.json", {"norm_stats": {"state": _STATE, "actions": _ACTION}})
    found = _read(tmp_path)
    assert found.state is not None
    assert found.action is not None
    assert found.key == "trossen"
    np.testing.assert_allclose(found.state.normalise(np.array([2.0, 2.0])), [1.0 / (0.5 + 1e-6), 0.0])
    np.testing.assert_allclose(found.action.restore(np.ones((2, 3)))[1], [1.1, 2.2, 3.3], rtol=1e-5)


def test_openpi_with_several_robots(tmp_path: Path) -> None:
    for name, scale in (("droid", 1.0), ("bridge", 2.0)):
        rows = {part: {"mean": [0.0], "std": [scale]} for part in ("state", "actions")}
        _write(tmp_path, f"assets/{name}/norm_stats.json", {"norm_stats": rows})
    with pytest.raises(ConfigError, match=r"bridge.*unnorm_key"):
        read_statistics(tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'bridge'"):
        read_statistics(tmp_path, "brigde")
    scaling = _read(tmp_path, "bridge").action
    assert scaling is not None
    np.testing.assert_allclose(scaling.scale, 2.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "low", "high"), [("MEAN_STD", -1.0, 1.0), ("QUANTILES", -1.0, 1.0), ("MIN_MAX", -1.0, 1.0)]
)
def test_lerobot(mode: str, low: float, high: float, tmp_path: Path) -> None:
    """The two numbers of each scheme become -1 and 1, or 0 and 1 deviation."""
    first, second = {"MEAN_STD": ("mean", "std"), "QUANTILES": ("q01", "q99"), "MIN_MAX": ("min", "max")}[mode]
    rows = {first: [1.0, 2.0], second: [3.0, 10.0]}
    _lerobot(tmp_path, {"STATE": "IDENTITY", "ACTION": mode}, {"action": rows, "observation.state": rows})
    found = _read(tmp_path)
    assert found.state is None
    assert found.action is not None
    restored = found.action.restore(np.array([[low] * 2, [high] * 2]))
    expected = [[-2.0, -8.0], [4.0, 12.0]] if mode == "MEAN_STD" else [[1.0, 2.0], [3.0, 10.0]]
    np.testing.assert_allclose(restored, expected, rtol=1e-6)


def test_lerobot_that_lacks_something(tmp_path: Path) -> None:
    _lerobot(tmp_path, {"ACTION": "QUANTILES"}, {"action": {"mean": [0.0], "std": [1.0]}})
    with pytest.raises(CheckpointError, match=r"action\.q01"):
        read_statistics(tmp_path)
    _lerobot(tmp_path, {"ACTION": "QUANTILE"}, {"action": {"mean": [0.0], "std": [1.0]}})
    with pytest.raises(UnknownNameError, match="QUANTILES"):
        read_statistics(tmp_path)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="normalizer_processor"):
        read_statistics(tmp_path)


@pytest.mark.parametrize("name", ["dataset_statistics.json", "config.json"])
def test_openvla(name: str, tmp_path: Path) -> None:
    """As OpenVLA un-normalises: bounds where the mask says so, the gripper as it comes."""
    data = {"bridge_orig": {"action": {**_ACTION, "mask": [True, True, False]}, "proprio": _STATE}}
    _write(tmp_path, name, data if name != "config.json" else {"model_type": "openvla", "norm_stats": data})
    found = _read(tmp_path)
    assert found.key == "bridge_orig"
    assert found.state is None  # OpenVLA sees none
    assert found.action is not None
    normalised = np.array([[-1.0, -1.0, 0.25], [1.0, 0.0, 0.75]])
    np.testing.assert_allclose(found.action.restore(normalised), [[-1.0, -2.0, 0.25], [1.0, 2.0, 0.75]], atol=1e-6)
    np.testing.assert_allclose(found.action.normalise(found.action.restore(normalised)), normalised, atol=1e-6)
    with pytest.raises(UnknownNameError, match=r"unnorm_key.*'fractal'.*bridge_orig"):
        read_statistics(tmp_path, "fractal")


def test_openvla_that_lacks_something(tmp_path: Path) -> None:
    _write(tmp_path, "dataset_statistics.json", {"x": {"action": {"q01": [0.0]}}})
    with pytest.raises(CheckpointError, match="q99"):
        read_statistics(tmp_path)
    (tmp_path / "dataset_statistics.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        read_statistics(tmp_path)


def test_transformers(tmp_path: Path) -> None:
    parts = {"state_mean": [1.0], "state_std": [2.0], "actions_mean": [0.0, 0.0], "actions_std": [1.0, 3.0]}
    _write(tmp_path, "processor_config.json", {"processor_class": "PI0Processor", **parts})
    found = _read(tmp_path)
    assert found.state is not None
    assert found.action is not None
    np.testing.assert_allclose(found.state.normalise(np.array([5.0])), [2.0])
    np.testing.assert_allclose(found.action.scale, [1.0, 3.0])


def test_own_file_comes_first_and_is_exact(tmp_path: Path) -> None:
    _write(tmp_path, "dataset_statistics.json", {"old": {"action": _ACTION}})
    kept = Statistics(None, Scaling(np.array([1 / 3, 0.1]), np.array([1e-8, 1e9])), "new")
    write_statistics(kept, tmp_path)
    found = _read(tmp_path)
    assert found.state is None
    assert found.action is not None
    assert found.key == "new"
    np.testing.assert_array_equal(found.action.offset, kept.action.offset)  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.action.scale, kept.action.scale)  # type: ignore[union-attr]
    with pytest.raises(UnknownNameError, match=r"'old'.*Valid: new"):
        read_statistics(tmp_path, "old")


def test_statistics_that_are_none() -> None:
    for offset, scale in (([0.0], [0.0]), ([np.nan], [1.0]), ([0.0, 1.0], [1.0]), ([[0.0]], [[1.0]])):
        with pytest.raises(CheckpointError, match="offsets"):
            Scaling(np.array(offset), np.array(scale))
    with pytest.raises(CheckpointError, match="mask of 1"):
        Scaling.bounds([0.0, 0.0], [1.0, 1.0], 0.0, [True])


def test_sizes_of_robot_and_network() -> None:
    padded = Statistics(None, Scaling(np.zeros(32), np.ones(32)))
    cut = padded.of_sizes({"action": (7, 32), "state": (3, 32)}).action
    assert cut is not None
    assert len(cut.offset) == 7
    with pytest.raises(ConfigError, match=r"8 action entries under 'x'.*maps 7.*action\.dim"):
        Statistics(None, Scaling(np.zeros(8), np.ones(8)), "x").of_sizes({"action": (7, 32)})
    with pytest.raises(ConfigError, match="at most 32"):
        Statistics().of_sizes({"state": (33, 32)})


def test_fitting() -> None:
    values = np.column_stack([np.linspace(-3, 5, 1001), np.full(1001, 2.0), np.linspace(0, 1, 1001)])
    scaling = fit_mean_std(values, 0.05)
    np.testing.assert_allclose(scaling.offset, [1.0, 2.0, 0.5])
    assert scaling.scale[1] == 0.05
    bounds = fit_quantiles(values, gripper=2)
    np.testing.assert_allclose(bounds.normalise(values).min(axis=0), [-1.0204, 0.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(bounds.restore(np.array([1.0, 1.0, 1.0])), [4.92, 2.025, 1.0], atol=1e-6)
