"""Opens datasets with LeRobot's own reader and writes all that it delivers to ``DATASET.npz`` beside each.

    python lerobot_child.py v3.0 DATASET ...        (v2.1: with PYTHONPATH on the older lerobot)

Runs in the environment that ``make lerobot`` builds, which has no PLD.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # a dataset that is not complete on disk is an error, no reason to ask a server

import numpy as np
import torch

# PyPI's torchvision is built for CUDA. Next to a torch without it, two operators that nobody here calls are missing.
if torch.version.cuda is None:
    _missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _missing.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def reader(version: str) -> Any:
    if version == "v2.1":
        from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset
    else:
        from ledataset.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset
    assert version == CODEBASE_VERSION
    return LeRobotDataset


def main(version: str, *folders: str) -> None:
    for folder in folders:
        dataset = reader(version)("pld/test", root=folder)
        items = [dataset[k] for k in range(len(dataset))]
        columns = {f"frame:{key}": np.stack([np.asarray(item[key]) for item in items]) for key in items[0]}
        stats = {f"stats:{key}:{name}": np.asarray(v) for key, s in dataset.meta.stats.items() for name, v in s.items()}
        counts = np.array([dataset.num_episodes, dataset.num_frames, dataset.fps])
        np.savez(f"{folder}.npz", counts=counts, **columns, **stats)


if __name__ == "__main__":
    main(*sys.argv[1:])
