"""Small random policies of LeRobot, and its server, in the environment that ``make lerobot`` builds, which has no PLD.

python lerobot_policy_child.py make act|diffusion FOLDER REQUEST.npz     (what it is to answer: FOLDER/answer.npy)
python lerobot_policy_child.py serve SCRIPT ARGUMENT ...
"""

from __future__ import annotations

import os
import runpy
import sys
import zlib
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

# PyPI's torchvision is built for CUDA. Next to a torch without it, two operators that nobody here calls are missing.
if torch.version.cuda is None:
    _missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _missing.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

PICTURE, STATE = "observation.images.front", "observation.state"


def config(kind: str) -> Any:
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_policy_config

    features = {
        "input_features": {
            PICTURE: PolicyFeature(FeatureType.VISUAL, (3, 64, 96)),
            STATE: PolicyFeature(FeatureType.STATE, (5,)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (4,))},
        "device": "cpu",
    }
    if kind == "act":
        return make_policy_config(
            kind, chunk_size=6, n_action_steps=4, dim_model=32, n_heads=2, dim_feedforward=32, n_encoder_layers=1,
            n_vae_encoder_layers=1, latent_dim=8, pretrained_backbone_weights=None, **features,
        )  # fmt: skip
    return make_policy_config(
        kind, horizon=8, n_action_steps=4, n_obs_steps=2, down_dims=(32, 64), crop_shape=None, num_inference_steps=4,
        diffusion_step_embed_dim=16, spatial_softmax_num_keypoints=4, **features,
    )  # fmt: skip


def make(kind: str, folder: str, request: str) -> None:
    """Saved, and asked over LeRobot's own way from a numpy observation to a chunk."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.policies.utils import prepare_observation_for_inference

    torch.manual_seed(7)
    rng = np.random.default_rng(7)
    policy = get_policy_class(kind)(config(kind)).eval()
    sizes = {STATE: (5,), "action": (4,), PICTURE: (3, 1, 1)}
    stats = {
        name: {
            key: torch.from_numpy(np.abs(rng.normal(size=size)) + low).float()
            for key, low in (("mean", 0.0), ("std", 0.5), ("min", -3.0), ("max", 3.0))
        }
        for name, size in sizes.items()
    }
    before, after = make_pre_post_processors(policy.config, dataset_stats=stats)
    for part in (policy, before, after):
        part.save_pretrained(folder)
    seen = dict(np.load(request))
    with torch.inference_mode():
        batch = before(prepare_observation_for_inference({k: seen[k] for k in (PICTURE, STATE)}, torch.device("cpu")))
        policy.reset()
        torch.manual_seed(zlib.crc32(seen["message"].tobytes()))
        if kind == "act":
            chunk = policy.predict_action_chunk(batch)[:, :4]
        else:
            chunk = torch.stack([policy.select_action(dict(batch)) for _ in range(4)], 1)
        np.save(f"{folder}/answer.npy", after(chunk)[0].numpy())


def main(what: str, *arguments: str) -> None:
    if what == "make":
        make(*arguments)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
