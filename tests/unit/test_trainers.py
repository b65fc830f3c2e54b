"""Folders for trainers elsewhere: the dataset, the generated config and the commands. They are not trained here."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from test_episode_store import make_episode

from pld_core.config import DistillConfig, load_config
from pld_core.data.lerobot import LeRobotReader, LeRobotWriter
from pld_core.errors import ConfigError, StageError, StorageError
from pld_core.stages import trainers
from pld_core.stages.trainers import openpi, openvla_oft
from pld_core.types import ActionSpec
from pld_core.vla.remote.image_key import ImageKey
from pld_core.vla.remote.key_map import KeyMap
from pld_core.vla.remote.settings import load_settings

# Flags of openpi's scripts at commit 15a9616, of those that take part here; write new ones down with a new commit.
OPENPI_COMMIT = "15a9616a00943ada6c20a0f158e3adb39df2ccac"
OPENPI_FLAGS = {
    "scripts/compute_norm_stats.py": {"config-name", "max-frames"},
    "scripts/train.py": {"exp-name", "resume", "overwrite", "batch-size", "num-workers", "num-train-steps", "seed"},
    "scripts/serve_policy.py": {"env", "default-prompt", "port", "record", "policy.config", "policy.dir"},
}
# Fields of FinetuneConfig and DeployConfig of openvla-oft at commit 213c5ff.
OFT_COMMIT = "213c5ff8d6e9673885d7e4dd6f2ce73b5d8a45db"
OFT_NETWORK = {"use_l1_regression", "use_diffusion", "use_film", "num_images_in_input", "use_proprio", "lora_rank"}
OFT_FINETUNE = OFT_NETWORK | {
    "vla_path", "data_root_dir", "dataset_name", "run_root_dir", "shuffle_buffer_size", "batch_size", "learning_rate",
    "lr_warmup_steps", "num_steps_before_decay", "grad_accumulation_steps", "max_steps", "save_freq", "resume",
    "save_latest_checkpoint_only", "resume_step", "image_aug", "use_lora", "lora_dropout", "run_id_note",
    "merge_lora_during_training", "wandb_entity", "wandb_project", "run_id_override", "wandb_log_freq",
}  # fmt: skip
OFT_DEPLOY = OFT_NETWORK | {"host", "port", "pretrained_checkpoint", "center_crop", "unnorm_key", "seed"}

PROPRIO, CAMERAS = 8, ("agentview", "wrist")


def job(folder: Path, trainer: str, keys: KeyMap | None = None, **settings: object) -> trainers.Job:
    rng = np.random.default_rng(0)

    def episode(seed: int, ticks: int = 6):
        def rows(count: int, size: int) -> np.ndarray:
            return rng.uniform(-1, 1, (count, size)).astype(np.float32)

        images = {name: rng.integers(0, 255, (ticks + 1, 16, 24, 3), dtype=np.uint8) for name in CAMERAS}
        return dataclasses.replace(
            make_episode(seed, ticks=ticks), proprio=rows(ticks + 1, PROPRIO), action=rows(ticks, 7), images=images,
            residual=rows(ticks, 7), base_action=rows(ticks + 1, 7), instruction="put it in the basket",
        )  # fmt: skip

    chosen = DistillConfig(trainer=trainer, steps=400, **settings)  # type: ignore[arg-type]
    return trainers.Job(folder, "My run, 1", chosen, [episode(k) for k in range(3)], ActionSpec(), (), 10, keys)


def constants(source: str) -> dict[str, object]:
    """What the module assigns at its top, where that is a literal."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def flags(command: str) -> set[str]:
    return {re.split(r"[= ]", word.removeprefix("--"))[0] for word in shlex.split(command) if word.startswith("--")}


@pytest.fixture
def prepared(tmp_path) -> trainers.Job:
    given = job(tmp_path / "out", "openpi", load_settings("libero").keys)
    trainers.external("openpi").prepare(given)
    return given


def test_openpis_config_names_the_keys_and_shapes_of_the_dataset(prepared):
    text = (prepared.folder / "pld_openpi.py").read_text()
    assert OPENPI_COMMIT == openpi.COMMIT
    assert OPENPI_COMMIT in text
    said = constants(text)
    reader = LeRobotReader(prepared.folder / "datasets" / str(said["REPO_ID"]))
    features = reader.info["features"]
    assert reader.info["codebase_version"] == "v2.1"
    assert said["CAMERAS"] == {name: (16, 24, 3) for name in CAMERAS}
    assert {f"observation.images.{name}": list(size) for name, size in said["CAMERAS"].items()} == {  # type: ignore[attr-defined]
        key: feature["shape"] for key, feature in features.items() if feature["dtype"] == "video"
    }
    assert features["observation.state"]["shape"] == [said["PROPRIO_DIM"]]
    assert features["action"]["shape"] == [said["ACTION_DIM"]]
    for key in ("observation.state", "action"):  # written out in the file, as its repack transform reads them
        assert f'"{key}"' in text
    assert said["SLOTS"] == {"base_0_rgb": "agentview", "left_wrist_0_rgb": "wrist"}
    assert said["MIRRORED"] == list(CAMERAS)  # as the base is served with
    assert said["ACTION_SCALE"] == [1, 1, 1, 1, 1, 1, -1]
    assert said["ACTION_HORIZON"] == 10
    assert said["STEPS"] == 400


def test_openpis_dataset_reads_back_with_equal_actions(prepared):
    found = [episode for episode, _ in LeRobotReader(prepared.folder / "datasets" / "pld" / "my_run_1")]
    assert len(found) == 3
    for given, back in zip(prepared.episodes, found, strict=True):
        np.testing.assert_array_equal(back.action, given.action)
        np.testing.assert_array_equal(back.proprio, given.proprio)
        assert back.instruction == "put it in the basket"


def test_openpis_commands_have_flags_that_its_scripts_know(prepared):
    commands = [*openpi.train_commands(prepared), openpi.serve_command(prepared)]
    for command in commands:
        script = next(word for word in shlex.split(command) if word.startswith("scripts/"))
        assert flags(command) <= OPENPI_FLAGS[script], script
    written = (prepared.folder / "train.sh").read_text() + (prepared.folder / "serve.sh").read_text()
    assert all(command in written for command in commands)
    assert "checkpoints/pld_my_run_1/pld/399" in commands[-1]


def test_the_policy_file_is_one_that_pld_takes(prepared):
    settings = load_settings(str(prepared.folder / "policy.yaml"))
    assert settings.action_horizon == 10
    assert sorted(key.camera for key in settings.keys.images.values()) == list(CAMERAS)
    assert settings.keys.proprio_dim == PROPRIO
    theirs = np.array([[0.5] * 7], np.float32)  # the server converts: what it answers is PLD's action
    np.testing.assert_array_equal(settings.keys.actions({"actions": theirs}), theirs)


@pytest.mark.parametrize(
    ("policy", "start", "name"),
    [
        ("openpi:libero@ws://there:8000", "", "pi05_libero"),
        ("openpi:droid", "", "pi05_droid"),
        ("lanes.py:Base", "", "pi05_libero"),
        ("openpi:aloha", "pi0_aloha@/ckpt/", "pi0_aloha"),
    ],
)
def test_openpi_starts_from_what_the_base_is(tmp_path, policy, start, name):
    given = dataclasses.replace(job(tmp_path, "openpi", start=start), policy=policy)
    said = openpi.settings(given)
    checkpoint = "/ckpt" if start else f"gs://openpi-assets/checkpoints/{name}"
    assert (said["START_CONFIG"], said["START_CHECKPOINT"]) == (name, checkpoint)
    assert f"({name}@{checkpoint})" in trainers.external("openpi").readme(given)


@pytest.mark.parametrize(
    "options", [{}, {"mirror": True}, {"crop": 0.5, "mirror": True}, {"fit": "stretch", "crop": 0.8}]
)
def test_openpi_gets_pictures_as_the_base_got_them(tmp_path, options):
    """The generated code itself, without openpi. What pads is openpi's own resizing."""
    sized = ImageKey("wrist", **({"height": 20, "width": 12} if "fit" in options else {}), **options)
    given = job(tmp_path, "openpi", KeyMap({"w": sized}, {}, PROPRIO))
    text = trainers.external("openpi").files(given)["pld_openpi.py"]
    function = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == "_picture")
    scope = {**constants(text), "np": np, "PIL": PIL}
    exec(compile(ast.Module([function], []), "pld_openpi.py", "exec"), scope)
    image = given.episodes[0].images["wrist"][0]
    for sent in (image, image.transpose(2, 0, 1).astype(np.float32) / 255):  # served, and of the dataset
        np.testing.assert_array_equal(scope["_picture"]({"observation/wrist": sent}, "wrist"), sized.write(image))


def test_a_mapping_with_some_entries_is_taken_over(tmp_path):
    keys = KeyMap({}, {"a": (6, 7), "b": (0,)}, PROPRIO, action_offset=(0.5,) * 7)
    said = openpi.settings(job(tmp_path, "openpi", keys, mode="lora"))
    assert (said["STATE"], said["LORA"]) == ([6, 7, 0], True)
    assert (said["ACTION_SCALE"], said["ACTION_OFFSET"]) == ([1.0] * 7, [0.5] * 7)
    with pytest.raises(StageError, match="no pictures of front"):
        _ = job(tmp_path, "openpi", load_settings("droid").keys).cameras


def test_a_full_disk_leaves_what_the_same_call_continues(tmp_path, monkeypatch):
    given = job(tmp_path / "out", "openpi")
    append, written = LeRobotWriter.append, []

    def until_full(self, episode, **metadata):
        if len(written) == 2:
            raise StorageError("the disk is full")
        written.append(episode)
        append(self, episode, **metadata)

    with monkeypatch.context() as full:
        full.setattr(LeRobotWriter, "append", until_full)
        with pytest.raises(StorageError):
            trainers.external("openpi").prepare(given)
    assert not (given.folder / "README.md").exists()
    trainers.external("openpi").prepare(given)
    trainers.external("openpi").prepare(given)  # of a run that was killed right behind it
    back = [episode for episode, _ in LeRobotReader(given.folder / "datasets" / "pld" / "my_run_1")]
    assert [e.spec.seed for e in back] == [0, 1, 2]
    assert "3 episodes" in (given.folder / "README.md").read_text()


@pytest.mark.parametrize("trainer", trainers.EXTERNAL)
def test_a_folder_of_others_is_refused_and_left_as_it_is(tmp_path, trainer, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    precious = tmp_path / "datasets" / "mine.npz"
    precious.parent.mkdir()
    precious.write_text("a week's work")
    with pytest.raises(ConfigError, match=r"is not empty.*another --out"):
        trainers.external(trainer).prepare(job(tmp_path, trainer))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [precious]


def test_a_folder_with_another_export_is_refused(prepared):
    before = {path: path.read_bytes() for path in prepared.folder.rglob("*") if path.is_file()}
    fewer = dataclasses.replace(prepared, episodes=prepared.episodes[:2])
    shorter = dataclasses.replace(prepared, episodes=[episode.tail(2) for episode in prepared.episodes])
    for other in (fewer, shorter, dataclasses.replace(prepared, run="theirs")):
        with pytest.raises(ConfigError, match=r"holds another export.*another --out"):
            trainers.external("openpi").prepare(other)
    assert {path: path.read_bytes() for path in prepared.folder.rglob("*") if path.is_file()} == before
    trainers.external("openpi").prepare(dataclasses.replace(prepared, folder=prepared.folder.rename("moved")))


def test_openvla_oft_removes_only_what_its_writer_left_unfinished(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    given, folder = job(tmp_path / "out", "openvla_oft"), tmp_path / "out" / "datasets"
    unfinished = [folder / "pld" / name for name in ("1.0.0", "1.0.0.incompleteAB12", "incomplete.3f_1.0.0")]
    kept = [folder / "mine", folder / "pld" / "2.0.0"]

    def killed(where: Path, episodes: object) -> None:
        for path in (*unfinished, *kept):
            path.mkdir(parents=True)
        raise StorageError("the disk is full")

    monkeypatch.setattr(openvla_oft, "write_rlds", killed)
    with pytest.raises(StorageError):
        trainers.external("openvla_oft").prepare(given)
    monkeypatch.setattr(openvla_oft, "write_rlds", lambda where, episodes: list(episodes))
    trainers.external("openvla_oft").prepare(given)  # goes on
    assert not any(path.exists() for path in unfinished)
    assert all(path.exists() for path in kept)


def test_openvla_ofts_files_fit_the_dataset_and_its_flags(tmp_path):
    given = job(tmp_path, "openvla_oft")
    files = trainers.external("openvla_oft").files(given)
    said = constants(files["pld_openvla_oft.py"])
    assert OFT_COMMIT == openvla_oft.COMMIT
    assert OFT_COMMIT in files["pld_openvla_oft.py"]
    assert (said["DATASET_NAME"], said["PRIMARY"], said["WRIST"]) == ("pld", *CAMERAS)
    assert (said["NUM_ACTIONS_CHUNK"], said["ACTION_DIM"], said["PROPRIO_DIM"]) == (10, 7, PROPRIO)
    train, deploy = openvla_oft.train_command(given), openvla_oft.deploy_command(given)
    assert flags(train) - {"standalone", "nnodes", "nproc-per-node"} <= OFT_FINETUNE
    assert flags(deploy) <= OFT_DEPLOY
    assert train in files["train.sh"]
    assert "--num_images_in_input 2 " in train
    assert "my_run_1--400_chkpt" in deploy
    assert train in trainers.external("openvla_oft").readme(given)
    (tmp_path / "policy.yaml").write_text(files["policy.yaml"])
    settings = load_settings(str(tmp_path / "policy.yaml"))
    assert {key: image.camera for key, image in settings.keys.images.items()} == dict(
        zip(["full_image", "wrist_image"], CAMERAS, strict=True)
    )
    theirs = np.array([[0.5] * 6 + [0.0], [0.5] * 6 + [1.0]], np.float32)  # closed, open
    np.testing.assert_array_equal(settings.keys.actions({"actions": theirs})[:, 6], [-1, 1])


@pytest.mark.parametrize(("steps", "every"), [(400, 80), (3000, 600), (4, 1), (14, 2), (1, 1), (3001, 3001)])
def test_openvla_oft_saves_often_enough_and_at_the_last_step(tmp_path, steps, every):
    given = job(tmp_path, "openvla_oft", mode="full")
    given = dataclasses.replace(given, settings=dataclasses.replace(given.settings, steps=steps))
    assert f"--max_steps {steps} --save_freq {every} " in openvla_oft.train_command(given)
    assert f"Every {every} steps" in trainers.external("openvla_oft").readme(given)


def test_a_folder_says_what_becomes_of_mode_and_rank(tmp_path):
    def said(trainer: str, **settings: object) -> str:
        return " ".join(trainers.external(trainer).readme(job(tmp_path, trainer, **settings)).split())  # type: ignore[arg-type]

    assert "always LoRA, of rank 8" in said("openvla_oft", mode="lora", rank=8)
    assert "`distill.mode full` is not" in said("openvla_oft", mode="full")
    assert "16 in gemma_2b_lora, 32 in gemma_300m_lora" in said("openpi", mode="lora", rank=8)
    assert "`distill.rank`, 8, changes nothing" in said("openpi", mode="lora", rank=8)
    assert "All weights are trained" in said("openpi", mode="full")


@pytest.mark.filterwarnings("default")
def test_openvla_ofts_dataset_has_equal_actions(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    given = job(tmp_path, "openvla_oft")
    trainers.external("openvla_oft").prepare(given)
    trainers.external("openvla_oft").prepare(given)  # stays
    builder = tfds.builder("pld", data_dir=str(tmp_path / "datasets"))
    found = [np.stack([s["action"] for s in tfds.as_numpy(e["steps"])]) for e in builder.as_dataset(split="train")]
    wanted = sorted(e.action.tobytes() for e in given.episodes)
    assert sorted(actions.tobytes() for actions in found) == wanted


def test_what_a_trainer_cannot_take_is_refused_at_the_start(monkeypatch):
    with pytest.raises(ConfigError, match="seven actions, the gripper last"):
        trainers.external("openvla_oft").check(ActionSpec(dim=8, gripper=7))
    with pytest.raises(ConfigError, match="32 actions, this robot 40"):
        trainers.external("openpi").check(ActionSpec(dim=40))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs tensorflow_datasets: pip install tensorflow"):
        trainers.external("openvla_oft").check(ActionSpec())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distill.trainer": "lerobot"}, "trainer"),
        ({"distill.start": "a@b"}, "distill.trainer is auto"),
        ({"distill.trainer": "openpi", "distill.start": "pi05_libero"}, "CONFIG@CHECKPOINT"),
        ({"distill.trainer": "openpi", "distill.mode": "head"}, "no mode head"),
        (
            {"distill.trainer": "openpi", "policy": "openpi:aloha@ws://there:8000"},
            r"base 'openpi:aloha.*distill\.start",
        ),
        ({"distill.trainer": "openpi", "policy": "openpi:mine.yaml"}, r"base 'openpi:mine.*distill\.start"),
        ({"distill.trainer": "openpi", "probe.image_every": 2, "replan_every": 2}, "every tick with its picture"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        load_config("custom", settings)
