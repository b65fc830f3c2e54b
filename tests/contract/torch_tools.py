"""Small, randomly initialised networks of the real architectures, saved as folders in the hub's own format."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PI0Config,
    PI0ForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from pld_core.types import Episode, EpisodeSpec, Observation
from pld_core.vla.robot_mapping import ActionMapping, CameraMapping, RobotMapping, plain

torch.set_num_threads(1)

CAMERAS = {"front": (24, 32, 3), "wrist": (20, 20, 3)}
PROPRIO_DIM = 9
MAPPING = RobotMapping(
    PROPRIO_DIM,
    (CameraMapping("wrist", 20, 20, "left_wrist_0_rgb"), CameraMapping("front", 24, 32, "base_0_rgb")),
    state=(0, 1, 2, 8),
    action=ActionMapping(scale=(0.01,) * 3 + (0.08,) * 3 + (1.0,), gripper_open=0.0, gripper_closed=1.0),
)
ONE_CAMERA = dataclasses.replace(MAPPING, cameras=(CameraMapping("front", 24, 32),))
INSTRUCTIONS = ("put the peg into a hole", "open the door")
_WORDS = (
    "\n",
    *re.findall(r"\S+", "in : what action should the robot take to ? out put peg into a hole open door now"),
)
_IMAGE_SIZE = 28  # of two by two patches
_LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(size: int, image_token: int) -> PreTrainedTokenizerFast:
    """Words of one list, each a token, and fillers up to ``size``; ``<image>`` is token ``image_token``."""
    names = ["<pad>", "<bos>", "<eos>", "<unk>", *_WORDS]
    names += [f"<f{i}>" for i in range(len(names), size)]
    names[image_token] = "<image>"
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    marks = [pre_tokenizers.Split(mark, "isolated") for mark in ("\n", ":", "?")]
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), *marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def _siglip() -> dict[str, Any]:
    return {
        **SiglipVisionConfig(**_LAYERS, image_size=_IMAGE_SIZE, patch_size=14, vision_use_head=False).to_dict(),
        "model_type": "siglip_vision_model",
    }


def save_pi0(folder: Path, mapping: RobotMapping = MAPPING, seed: int = 0, dtype: Any = torch.float32) -> Path:
    """A pi0 of two layers: chunks of 3 actions, 8 entries."""
    text = {**_LAYERS, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64, "model_type": "gemma"}
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma", "text_config": text, "vision_config": _siglip(), "projection_dim": 32,
            "image_token_id": 63,
        },
        dit_config=text, chunk_size=3, max_state_dim=8, max_action_dim=8,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = PI0ForConditionalGeneration(config)
    torch.nn.init.normal_(model.action_out_proj.weight, std=0.3)  # as it comes, what it sees hardly matters
    return _save(folder, model.to(dtype), tokenizer(64, 63), mapping)


def save_llava(folder: Path, mapping: RobotMapping = ONE_CAMERA, seed: int = 0) -> Path:
    """OpenVLA's shape: Llama behind a vision tower, 256 action tokens at the end of 320, rows padded by 16."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_LAYERS, image_size=_IMAGE_SIZE, patch_size=14),
        text_config=LlamaConfig(**_LAYERS, vocab_size=336, bos_token_id=1, eos_token_id=2, pad_token_id=0),
        image_token_id=50, image_seq_length=4, pad_to_multiple_of=16,
    )  # fmt: skip
    torch.manual_seed(seed)
    size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size)
    processor = LlavaProcessor(
        pictures, tokenizer(320, 50), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    torch.nn.init.normal_(model.get_output_embeddings().weight)  # as it comes, all tokens are about as likely
    return _save(folder, model, processor, mapping)


def save_paligemma(folder: Path, mapping: RobotMapping = ONE_CAMERA, seed: int = 0) -> Path:
    """Tied embeddings, and an image token among the last 256: those below it are the actions."""
    text = {**_LAYERS, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 400}
    config = PaliGemmaConfig(
        vision_config=_siglip(), text_config=GemmaConfig(**text), image_token_id=350, projection_dim=32
    )
    torch.manual_seed(seed)
    pictures = SiglipImageProcessorPil(size={"height": _IMAGE_SIZE, "width": _IMAGE_SIZE})
    pictures.image_seq_length = 4
    model = PaliGemmaForConditionalGeneration(config)
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.2)
    return _save(folder, model, PaliGemmaProcessor(pictures, tokenizer(400, 350)), mapping)


def _save(folder: Path, model: Any, processor: Any, mapping: RobotMapping) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "pld.yaml").write_text(yaml.safe_dump(plain(mapping)))
    return folder


def observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    images = {name: rng.integers(0, 256, size, dtype=np.uint8) for name, size in CAMERAS.items()}
    proprio = rng.normal(size=PROPRIO_DIM).astype(np.float32)
    return Observation(images, proprio, INSTRUCTIONS[index % 2], {"proprio": index})


def episode(index: int, ticks: int = 4) -> Episode:
    """Random pictures and motions; the gripper closes in the middle."""
    rng = np.random.default_rng(100 + index)
    seen = [observation(1000 * index + t) for t in range(ticks + 1)]
    action = rng.uniform(-0.8, 0.8, (ticks, 7)).astype(np.float32)
    action[:, 6] = np.where(np.arange(ticks) < ticks // 2, 1.0, -1.0)
    return Episode(
        spec=EpisodeSpec("toy", index),
        instruction=INSTRUCTIONS[index % 2],
        proprio=np.stack([o.proprio for o in seen]),
        state=np.zeros((ticks + 1, 0), np.float32),
        images={name: np.stack([o.images[name] for o in seen]) for name in CAMERAS},
        base_action=np.zeros((ticks + 1, 7), np.float32),
        residual=np.zeros((ticks, 7), np.float32),
        action=action,
        reward=np.zeros(ticks, np.float32),
        source=np.zeros(ticks, np.uint8),
        intervention=np.zeros(ticks, bool),
        terminated=True,
        truncated=False,
        success=True,
    )
