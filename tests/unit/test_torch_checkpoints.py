"""Checkpoints of pi0 and token VLMs in the formats of the hub, lerobot and openpi; broken ones; the prefix cache."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'torch'")
pytest.importorskip("transformers", reason="needs the extra 'torch'")

import torch
import torch_tools as tools
from safetensors.torch import load_file, save_file

from pld_core.errors import CheckpointError, ConfigError, ContractError, PLDError, UnknownNameError
from pld_core.vla.torch.inputs import content_seed
from pld_core.vla.torch.pi0 import Pi0, pi0
from pld_core.vla.torch.token_vlm import token_vlm

# The network's names of weights, and those in lerobot's and openpi's files.
_LEROBOT_NAMES = {
    r"^model\.vlm\.language_model\.embed_tokens": "paligemma_with_expert.paligemma.lm_head",
    r"^model\.dit\.embed_tokens": "paligemma_with_expert.gemma_expert.lm_head",
    r"^model\.vlm": "paligemma_with_expert.paligemma.model",
    r"^model\.dit": "paligemma_with_expert.gemma_expert.model",
    r"^embed_action_time\.": "",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    savers = {"pi0": tools.save_pi0, "llava": tools.save_llava}
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in savers.items()}


@pytest.fixture
def pi0_folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved["pi0"], tmp_path / "pi0"))


@pytest.fixture
def vlm_folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved["llava"], tmp_path / "vlm"))


def _edit(path: Path, **changes: Any) -> None:
    """Of a JSON file; None takes a key away."""
    data = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def _rename_weights(folder: Path, prefix: str) -> None:
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for pattern, other in _LEROBOT_NAMES.items():
            name, hit = re.subn(pattern, other, name)
            if hit:
                break
        renamed[prefix + name] = tensor.clone()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


def _sizes(folder: Path) -> dict[str, Any]:
    """What makes the network of the tests small; real files of lerobot and openpi leave it to the defaults."""
    config = json.loads((folder / "config.json").read_text())
    return {key: config[key] for key in ("vlm_config", "dit_config", "max_state_dim", "max_action_dim", "chunk_size")}


def _actions(policy: Any) -> np.ndarray:
    return np.stack([chunk.actions for chunk in policy.infer([tools.observation(i) for i in range(3)])])


def test_lerobot_checkpoint(pi0_folder: Path) -> None:
    """Its names of weights, settings, pictures and statistics give the same policy as the network's own."""
    own = pi0(str(pi0_folder))
    names = [f"observation.images.{slot}" for slot in ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")]
    features = {name: {"type": "VISUAL", "shape": [3, 224, 224]} for name in names}
    features["observation.state"] = {"type": "STATE", "shape": [4]}
    lerobot = {"type": "pi0", "paligemma_variant": "gemma_2b", "n_action_steps": 50, "device": None, "dtype": "float32"}
    sizes = _sizes(pi0_folder)
    (pi0_folder / "config.json").write_text(json.dumps({**lerobot, **sizes, "input_features": features}))
    _rename_weights(pi0_folder, "model.")
    mapping = (pi0_folder / "pld.yaml").read_text()
    (pi0_folder / "pld.yaml").write_text(re.sub(r"slot: (\w+)", r"slot: observation.images.\1", mapping))
    found = pi0(str(pi0_folder))
    assert found.version == own.version
    np.testing.assert_array_equal(_actions(found), _actions(own))

    stats = {"mean": [0.0] * 7, "std": [0.1] * 7}
    tensors = {f"action.{name}": torch.tensor(row) for name, row in stats.items()}
    save_file(tensors, pi0_folder / "policy_preprocessor_step_5_normalizer_processor.safetensors")
    step = {"registry_name": "normalizer_processor", "config": {"norm_map": {"ACTION": "MEAN_STD"}}}
    step["state_file"] = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    (pi0_folder / "policy_preprocessor.json").write_text(json.dumps({"steps": [step]}))
    scaled = pi0(str(pi0_folder))
    assert scaled.version != own.version
    shapeless = dataclasses.replace(own.mapping, action=dataclasses.replace(own.mapping.action, scale=(1.0,) * 7))
    unit, tenth = (type(own)(own.model, own.processor, shapeless, p.statistics) for p in (own, scaled))
    free = np.abs(_actions(unit)[..., :6]) < 1.0  # not cut at the limit
    assert free.any()
    np.testing.assert_allclose(_actions(tenth)[..., :6][free], 0.1 * _actions(unit)[..., :6][free], atol=1e-6)


def test_openpi_checkpoint(pi0_folder: Path) -> None:
    """As its conversion to PyTorch writes it, with the statistics of two robots."""
    own, sizes = pi0(str(pi0_folder)), _sizes(pi0_folder)
    openpi = {"action_dim": 8, "action_horizon": 3, "paligemma_variant": "gemma_2b", "precision": "bfloat16"}
    networks = {key: sizes[key] for key in ("vlm_config", "dit_config")}
    (pi0_folder / "config.json").write_text(json.dumps({**openpi, **networks}))
    _rename_weights(pi0_folder, "")
    assert pi0(str(pi0_folder)).version == own.version
    for name in ("droid", "trossen"):  # padded to the network's size, as some of openpi's are
        rows = {part: {"mean": [0.0] * 8, "std": [1.0] * 8} for part in ("state", "actions")}
        (pi0_folder / "assets" / name).mkdir(parents=True)
        (pi0_folder / "assets" / name / "norm_stats.json").write_text(json.dumps({"norm_stats": rows}))
    with pytest.raises(ConfigError, match=r"droid, trossen.*unnorm_key"):
        pi0(str(pi0_folder))
    assert pi0(f"{pi0_folder}?unnorm_key=trossen").statistics.key == "trossen"
    _edit(pi0_folder / "config.json", action_expert_variant="gemma_2b_lora")
    with pytest.raises(CheckpointError, match="gemma_2b_lora"):
        pi0(str(pi0_folder))


def test_openvla_statistics(vlm_folder: Path) -> None:
    """Bounds of the chosen data set, the gripper as it comes; the key is kept by ``save``."""
    low, high = [-0.5] * 6 + [0.0], [0.5] * 6 + [1.0]
    rows = {name: {"action": {"q01": low, "q99": high, "mask": [True] * 6 + [False]}} for name in ("a", "b")}
    (vlm_folder / "dataset_statistics.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="unnorm_key"):
        token_vlm(str(vlm_folder))
    with pytest.raises(UnknownNameError, match=r"unnorm_key.*'bridge'.*a, b"):
        token_vlm(f"{vlm_folder}?unnorm_key=bridge")
    policy = token_vlm(f"{vlm_folder}?unnorm_key=b")
    policy.save(vlm_folder / "star")
    again = token_vlm(f"{vlm_folder / 'star'}?unnorm_key=b")
    assert again.version == policy.version
    with pytest.raises(UnknownNameError, match=r"unnorm_key.*'a'"):
        token_vlm(f"{vlm_folder / 'star'}?unnorm_key=a")
    rows["a"]["action"] = {"q01": low[1:], "q99": high[1:]}
    (vlm_folder / "dataset_statistics.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match=r"6 action entries under 'a'.*maps 7.*action\.dim"):
        token_vlm(f"{vlm_folder}?unnorm_key=a")


def test_prefix_runs_once_and_its_cache_changes_nothing(saved: dict[str, Path]) -> None:
    policy = pi0(str(saved["pi0"]))
    calls = {"vlm": 0, "dit": 0}

    def counted(name: str) -> Any:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    hooks = [getattr(policy.model.model, name).register_forward_hook(counted(name)) for name in calls]
    observation = tools.observation(0)
    answer = policy._predict([observation])
    assert calls == {"vlm": 1, "dit": 10}
    for hook in hooks:
        hook.remove()
    inputs = policy._inputs([observation])
    noise = policy._noise([np.random.default_rng(content_seed(observation, policy.mapping))])
    with torch.no_grad():
        for step in range(10):  # pictures and words anew in each
            velocity = policy.model(**inputs, noise=noise, timestep=torch.tensor([1.0 - step / 10])).logits
            noise = noise - velocity / 10
    np.testing.assert_allclose(answer, noise[..., :7].numpy(), atol=1e-4)


def test_what_the_network_sees(saved: dict[str, Path]) -> None:
    """Pictures in the slots' order in [-1, 1], the state's entries padded with zeros, the words behind the pictures."""
    policy = pi0(str(saved["pi0"]))
    seen = tools.observation(0)
    inputs = policy._inputs([seen])
    assert [camera.camera for camera in policy.mapping.cameras] == ["front", "wrist"]  # base_0_rgb comes first
    pixels = inputs["pixel_values"]
    assert pixels.shape == (1, 2, 3, 28, 28)
    assert (pixels[0, 0, :, :3] == -1.0).all()  # black above the wide picture, none beside the square one
    assert pixels[0, 1, :, :3].std() > 0.1
    assert pixels.abs().max() <= 1.0
    np.testing.assert_array_equal(inputs["state"][0], [*seen.proprio[[0, 1, 2, 8]], 0, 0, 0, 0])
    ids = inputs["input_ids"][0].tolist()
    assert ids[:8] == [63] * 8
    assert ids[8] == policy.processor.bos_token_id
    words = policy.processor.convert_ids_to_tokens(ids[9 : 8 + int(inputs["attention_mask"][0, 8:].sum())])
    assert words == ["put", "the", "peg", "into", "a", "hole", "\n"]
    with pytest.raises(ContractError, match=r"101 tokens|102 tokens"):
        policy.infer([dataclasses.replace(seen, instruction="put " * 100)])


def test_a_token_policy_sees_picture_and_instruction(saved: dict[str, Path]) -> None:
    policy = token_vlm(f"{saved['llava']}")
    row = policy._row(tools.observation(1))
    words = policy.processor.tokenizer.convert_ids_to_tokens(row["input_ids"][0])
    text = "in : what action should the robot take to open the door ? \n out :"
    assert words[-16:] == [word or "\n" for word in text.split(" ")]
    assert words[: len(words) - 16].count("<image>") == 4
    assert (policy.tokens.first, policy.tokens.end) == (64, 320)  # 336 rows less 16 of padding


@pytest.mark.parametrize("name", ["pi0_folder", "vlm_folder"])
def test_broken_folders(name: str, request: pytest.FixtureRequest, saved: dict[str, Path]) -> None:
    folder: Path = request.getfixturevalue(name)
    make = pi0 if name == "pi0_folder" else token_vlm
    weights = load_file(folder / "model.safetensors")
    lost = sorted(weights)[0]
    save_file({n: t.clone() for n, t in weights.items() if n != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 of the network's weights"):
        make(str(folder))
    changed = {n: (torch.zeros(3) if n == lost else t.clone()) for n, t in weights.items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        make(str(folder))
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        make(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")  # pickled: never opened
    with pytest.raises(CheckpointError, match="safetensors"):
        make(str(folder))
    _edit(folder / "config.json", model_type="openvla")
    with pytest.raises(CheckpointError, match=r"not of pi0|docs/policies\.md"):
        make(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        make(str(folder))
    shutil.copy(saved["pi0" if make is pi0 else "llava"] / "config.json", folder)
    (folder / "pld.yaml").unlink()
    with pytest.raises(ConfigError, match=r"pld\.yaml does not exist"):
        make(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(PLDError):
        make(str(folder))


def test_old_lerobot_statistics_are_not_lost_silently(pi0_folder: Path) -> None:
    weights = load_file(pi0_folder / "model.safetensors")
    weights["normalize_inputs.buffer_observation_state.mean"] = torch.zeros(4)
    save_file(weights, pi0_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="migrate_policy_normalization"):
        pi0(str(pi0_folder))


def test_wrong_sources(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder here nor a repository"):
        pi0("no/such/folder")
    with pytest.raises(CheckpointError, match=r"'llava' network, not of pi0"):
        pi0(str(saved["llava"]))
    with pytest.raises(ConfigError, match="device"):
        pi0(f"{saved['pi0']}?device=cuda:77" if not torch.cuda.is_available() else f"{saved['pi0']}?device=nonsense")
    text = (saved["pi0"] / "pld.yaml").read_text()
    for change, message in (
        (("horizon: null", "horizon: 4"), "horizon 4.*chunk of 3"),
        (("dim: 7", "dim: 9"), r"action\.scale needs 9"),
        (("slot: base_0_rgb", "slot: base"), r"image slot.*'base'.*base_0_rgb"),
    ):
        (tmp_path / "pld.yaml").write_text(text.replace(*change))
        with pytest.raises(ConfigError, match=message):
            pi0(f"{saved['pi0']}?mapping={tmp_path / 'pld.yaml'}")


def test_saving_replaces_the_old_folder_or_leaves_it(saved: dict[str, Path], tmp_path: Path) -> None:
    policy = pi0(str(saved["pi0"]))
    path = tmp_path / "star.vla"
    policy.save(path)
    (path / "leftover").touch()
    star = policy.sft([tools.episode(0)], steps=1, batch_size=2)

    class Full:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    broken = Pi0(star.model, star.processor, star.mapping, star.statistics)
    broken.processor = Full()
    with pytest.raises(PLDError, match="disk is full"):
        broken.save(path)
    assert Pi0.load(path).version == policy.version
    star.save(path)
    assert Pi0.load(path).version == star.version
    assert [p.name for p in tmp_path.iterdir()] == ["star.vla"]
    assert not (path / "leftover").exists()


def test_torch_is_imported_only_when_asked_for() -> None:
    code = (
        "import sys, pld_core.vla, pld_core.vla.torch.action_tokens, pld_core.vla.torch.normalisation, "
        "pld_core.vla.torch.settings; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
