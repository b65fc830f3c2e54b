"""A stand-in for the package octo where it is not installed: the public interface of octo-models/octo at 241fb35, as
far as the adapter uses it, around arithmetic instead of a network. Written by hand; no code of Octo's.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


class OctoModel:
    """``load_pretrained``, ``create_tasks``, ``sample_actions`` and the attributes of the real one."""

    def __init__(self, folder: Path) -> None:
        saved = json.loads((folder / "config.json").read_text())
        self.config = {"model": saved["model"]}
        shapes: dict[str, np.ndarray] = {key: np.zeros((1, *shape), np.uint8) for key, shape in saved["images"].items()}
        window = next(iter(shapes.values())).shape[1]
        self.example_batch = {
            "observation": {
                **shapes,
                "proprio": np.zeros((1, window, saved["proprio"]), np.float32),
                "timestep_pad_mask": np.ones((1, window), bool),
                "pad_mask_dict": {key: np.ones((1, window), bool) for key in shapes},
            },
            "task": {},
        }
        self.params = {"kernel": np.arange(4.0)}
        read = json.loads((folder / "dataset_statistics.json").read_text())
        self.dataset_statistics = {
            name: {part: {k: np.array(v) for k, v in values.items()} for part, values in one.items()}
            for name, one in read.items()
        }
        self.asked: list[dict[str, Any]] = []

    @classmethod
    def load_pretrained(cls, checkpoint_path: str, step: int | None = None) -> OctoModel:
        return cls(Path(checkpoint_path))

    def create_tasks(self, goals: Any = None, texts: Any = None) -> dict[str, Any]:
        return {
            "language_instruction": list(texts),
            "pad_mask_dict": {"language_instruction": np.ones(len(texts), bool)},
        }

    def sample_actions(
        self, observations: Any, tasks: Any, unnormalization_statistics: Any = None, rng: Any = None, **other: Any
    ) -> np.ndarray:
        """``[1, H, D]``: noise of ``rng`` alone, un-normalised where the mask says so."""
        self.asked.append({"observations": observations, "tasks": tasks, **other})
        horizon = self.config["model"]["heads"]["action"]["kwargs"]["action_horizon"]
        stats = unnormalization_statistics
        noise = np.random.default_rng(np.asarray(rng)).uniform(0, 1, (1, horizon, len(stats["mean"])))
        return np.where(stats["mask"], noise * stats["std"] + stats["mean"], noise)


def install(monkeypatch: Any) -> None:
    """As if ``octo.model.octo_model`` were there."""
    module = types.ModuleType("octo.model.octo_model")
    module.OctoModel = OctoModel  # type: ignore[attr-defined]
    for name in ("octo", "octo.model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def write_checkpoint(folder: Path) -> Path:
    """Two cameras in a window of two, proprioception of three, four actions of seven; two sets of statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {"image_primary": (2, 32, 32, 3), "image_wrist": (2, 16, 16, 3)}
    kwargs = {"action_horizon": 4, "action_dim": 7}
    saved = {"model": {"heads": {"action": {"kwargs": kwargs}}}, "images": images, "proprio": 3}
    (folder / "config.json").write_text(json.dumps(saved))
    mask = [True] * 6 + [False]
    action = {"mean": [0.0] * 7, "std": [0.5] * 7, "mask": mask, "p01": [-1.0] * 7, "p99": [3.0] * 7}
    proprio = {"mean": [1.0] * 3, "std": [2.0] * 3, "mask": [True, True, False], "p01": [0.0] * 3, "p99": [1.0] * 3}
    statistics = {name: {"action": action, "proprio": proprio} for name in ("bridge", "fractal")}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    return folder
