"""Every setting of a run: nested frozen dataclasses, YAML presets over them, flags on top.

``load_config("peg_insertion", {"learn.steps": 20_000})`` is what ``pld train --preset peg_insertion
--learn.steps 20000`` does. Presets in ``robot_configs/train`` say only what differs from the defaults
here, and may start from another preset with ``extends: <name>``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pld_core.config_rules import validate
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.strict import build, flatten, known_keys, unflatten
from pld_core.yaml_file import read_yaml

Algorithm = Literal["pld", "rlpd", "wsrl", "calql", "residual_sac"]
Encoder = Literal["auto", "features", "resnet10"]
SftMode = Literal["full", "head", "lora"]
SftData = Literal["pld", "oracle", "base"]
Head = Literal["flow", "tokens", "diffusion"]
Imitate = Literal["specialist", "all"]
Trainer = Literal["auto", "in_process", "openpi", "openvla_oft", "none"]


@dataclass(frozen=True)
class BaseConfig:
    """The frozen base VLA, and how it is made from a few demonstrations with ``from_scratch``."""

    head: Head = "flow"  # flow matching, autoregressive action tokens, or score matching
    checkpoint: str = ""  # path of a CompactVLA checkpoint, or the name of a shipped one; empty: base_<head>
    tasks: tuple[str, ...] = ("peg_insertion", "cube_pickup", "gpu_insertion")  # one model serves all
    grounding_frames: int = 14_000  # labelled frames per task for the visual pre-training
    grounding_every: int = 1  # ticks from one of these frames to the next
    grounding_steps: int = 10_000  # an encoder trained less is what fails, and no residual can see past it
    demonstrations: tuple[int, ...] = (2, 6, 3)  # of the oracle, for each of tasks: so few that it succeeds 20-60 %
    steps: int = 800  # gradient steps of supervised fine-tuning
    batch_size: int = 64
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class HarvestConfig:
    """Roll the base out and keep its successes as the offline buffer."""

    successes: int = 50  # stop after this many successful episodes
    max_episodes: int = 1000  # give up here, with an error that says how many succeeded


@dataclass(frozen=True)
class LearnConfig:
    """Residual reinforcement learning (or one of the baselines) on top of the frozen base."""

    algorithm: Algorithm = "pld"
    policy_features: int | None = None  # leading entries of the base's features that the residual sees; null: all
    encoder: Encoder = "auto"  # auto: resnet10 if there are cameras and a GPU, or a base without features
    steps: int = 30_000  # environment steps, harvest not counted
    updates_per_step: float = 1.0  # critic updates per environment step
    critic_updates_per_actor_update: int = 2
    batch_size: int = 256
    offline_fraction: float = 0.5  # share of each batch taken from the offline buffer
    replay_capacity: int = 250_000  # transitions of the online buffer
    gamma: float = 0.98  # discount per tick
    n_step: int = 3  # ticks whose rewards are summed before the critic's bootstrap
    tau: float = 0.005  # Polyak rate of the target critics
    learning_rate: float = 3e-4
    grad_clip: float = 1.0  # global norm
    hidden: tuple[int, ...] = (256, 256, 256)
    critics: int = 2
    xi_max: float = 0.3  # largest scale of the residual, in units of normalised action
    xi_ramp_steps: int = 2000  # environment steps over which xi grows from 0 to xi_max
    warmup_episodes: int = 100  # base-only episodes before the residual acts
    critic_warmup_steps: int = 4000  # environment steps of random residuals before the actor learns
    noise_ticks: int = 2  # ticks for which exploration keeps its noise
    jump_start: float = 0.3  # share of episodes that begin with base-driven ticks
    jump_start_max: float = 0.6  # longest base-driven start, as a share of the time limit
    target_entropy: (
        float | None
    ) = -3.5  # nats, sum over what the residual moves; null: published, minus the action size
    residual_gripper: bool = False  # may the residual move the gripper of an arm?
    residual_rotation: bool = True  # may it turn the tool?
    initial_log_std: float = -1.0  # of the residual's Gaussian before tanh
    temperature_learning_rate: float = 1e-3
    initial_temperature: float = 0.005  # the published 1.0 needs more updates to decay than a CPU has
    min_temperature: float = 0.0  # floor, so that exploration does not die early
    calql_steps: int = 0  # critic warm-start updates on the offline buffer
    calql_alpha: float = 1.0  # weight of the conservative term
    calql_actions: int = 10  # sampled actions per source in the conservative term
    round_episodes: int = 20  # after so many the actor takes over what was learnt meanwhile
    eval_every: int = 5000  # environment steps between evaluations; 0: none
    eval_episodes: int = 50
    target_success: float = 1.0  # stop early when an evaluation reaches this rate
    checkpoint_seconds: float = 60.0  # longest work lost to kill -9


@dataclass(frozen=True)
class ProbeConfig:
    """Collect data for distillation: base-driven start, then the specialist takes over."""

    episodes: int = 200  # successful episodes to keep
    alpha: float = 0.6  # T_base ~ U[0, alpha * time limit]
    image_every: int = 1  # ticks that a picture serves, where drawing is slow; distill learns ticks with a fresh one


@dataclass(frozen=True)
class DistillConfig:
    """Supervised fine-tuning of the base VLA on the curated episodes."""

    trainer: Trainer = "auto"  # auto: in_process if the policy can (it has sft), else none; others prepare its training
    start: str = ""  # checkpoint that openpi (CONFIG@CHECKPOINT) or openvla_oft starts from; empty: a public one
    data: SftData = "pld"  # probe data, oracle demonstrations, or the base's own successes
    imitate: Imitate = "specialist"  # of a probed episode: the specialist's ticks, or all, the base's start included
    runs: tuple[str, ...] = ()  # folders of further runs whose probe data are learnt too: one VLA* for many tasks
    episodes: int | None = None  # so many of each run's probes, the first; null: all
    mode: SftMode = "full"
    rank: int = 32  # of the LoRA matrices, with mode lora; openpi has its own
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 5e-4


@dataclass(frozen=True)
class EvaluateConfig:
    """Success rates of base, specialist and distilled VLA on seeds never used in training (LIBERO: docs/libero.md)."""

    episodes: int = 100
    drift_states: int = 200  # states of these episodes at which the policies' actions are compared; 0: none
    drift_samples: int = 64  # actions drawn from each policy at each state
    other_tasks: tuple[str, ...] = ()  # tasks that were not trained: does VLA* still do what the base does?
    other_episodes: int = 20  # of each of them


@dataclass(frozen=True)
class RosConfig:
    """How ``--runner ros`` reaches the nodes of a station."""

    attach: bool = False  # to a graph that is running (pld launch, ros2 launch); otherwise one is started
    realtime: bool = False  # of a simulated arm in a graph started here; otherwise as fast as the machine can
    records_address: str = "tcp://127.0.0.1:5757"  # where the replay logger delivers; the learner listens here
    weights_address: str = "tcp://127.0.0.1:5758"  # where the controller fetches weights
    ready_timeout_s: float = 120.0  # seconds to wait for a controller or a VLA server


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows."""

    videos: bool = True  # base failure, specialist and distilled VLA on the same seed
    video_size: int = 320  # pixels, height and width
    video_fps: int = 20


@dataclass(frozen=True)
class TrainConfig:
    """One run of the loop harvest, learn, probe, distill, evaluate, report."""

    preset: str = "peg_insertion"
    task: str = "peg_insertion"  # a name from `pld doctor`, or module:factory
    robot: str = "fr3_sim"  # a station that the task is made for; none: the task brings its own
    policy: str = "compact"  # base policy: compact (CompactVLA), an installed name, or module:factory
    reward: str = "binary"
    runner: str = "local"  # where episodes happen: local (simulated in this process), ros (a station's nodes)
    seed: int = 0
    name: str = ""  # of the run folder; empty: <preset>-seed<seed>, with the task where the preset is not made for it
    runs_dir: str = "runs"
    lanes: int = 10  # environments stepped together in one process
    replan_every: int = 1  # ticks that a chunk of the base serves before a fresh one is taken
    images_every_tick: bool = False  # of simulators that else draw only what the base looks at when it plans
    simplified_images: bool = False  # of simulators that draw them faster so: in practice, where no reward looks
    from_scratch: bool = False  # make the base VLA anew instead of using the shipped checkpoint
    fresh: bool = False  # put an existing run of this name aside and start over
    wandb: bool = False  # also log to Weights & Biases (needs the package wandb)
    base: BaseConfig = field(default_factory=BaseConfig)
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    ros: RosConfig = field(default_factory=RosConfig)

    @property
    def run_name(self) -> str:
        """Two tasks never share a folder: another task than the preset's own is part of the name."""
        if self.name:
            return self.name
        stem = Path(self.preset).stem
        if not _made_for(self.preset, self.task):
            slug = _slug(self.task)
            stem = slug if self.preset == FALLBACK_PRESET or slug.startswith(f"{stem}-") else f"{stem}-{slug}"
        return f"{stem}-seed{self.seed}"


FALLBACK_PRESET = "custom"  # for tasks that no preset is made for
UNNAMED = "custom"  # task and policy of that preset: the user is to name theirs

# Settings that may differ when a run is resumed: they do not change what is computed.
FREE_ON_RESUME = ("preset", "name", "runs_dir", "fresh", "wandb", "learn.checkpoint_seconds", "report.*", "ros.*")


def load_config(preset: str = "peg_insertion", overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """The preset with ``overrides`` (dotted keys or nested mappings) on top, validated."""
    config = build(TrainConfig, {"preset": preset, **read_preset(preset)}, source=f"preset {preset}")
    if overrides:
        check_keys(overrides)
        config = build(config, unflatten(overrides), source="the overrides")
    return validate(config)


def read_preset(name: str, _seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of a preset as a nested dictionary, with those that it ``extends`` underneath."""
    if name in _seen:
        raise ConfigError(f"Presets extend each other in a circle: {' -> '.join((*_seen, name))}.")
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name))
    elif name in preset_names():
        values = read_yaml(config_root() / "train" / f"{name}.yaml")
    else:
        raise UnknownNameError("preset", name, preset_names(), "A path to your own .yaml file works too.")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    merged = {**flatten(read_preset(str(parent), (*_seen, name))), **flatten(values)}
    return unflatten(merged)


def config_root() -> Path:
    """The folder ``robot_configs``, in a checkout, an editable installation or a wheel."""
    return Path(str(importlib.resources.files("robot_configs")))


def preset_names() -> list[str]:
    return sorted(path.stem for path in (config_root() / "train").glob("*.yaml"))


def preset_for(task: str) -> str:
    """The preset that is named after a task or its suite, else the starting point for tasks of one's own."""
    suite = task.partition("/")[0]
    return next((name for name in (task, suite) if name in preset_names()), FALLBACK_PRESET)


def _made_for(preset: str, task: str) -> bool:
    """Whether a shipped preset is meant for ``task`` alone; a file of the user's is meant for what it is used for."""
    if preset not in preset_names():
        return True
    return "/" not in task and read_preset(preset).get("task", TrainConfig.task) == task


def _slug(task: str) -> str:
    """The last part of ``module:factory`` or of ``<module.factory>``, or ``suite-3``, as a folder's name."""
    return re.sub(r"[^\w-]+", "", re.split(r"[.:]", task)[-1].replace("/", "-")) or "task"


def check_keys(overrides: Mapping[str, Any]) -> None:
    """Refuse an unknown dotted key, suggesting the nearest one of the whole configuration."""
    valid = known_keys(TrainConfig)
    for key in overrides:
        if key in valid:
            continue
        section = key.rpartition(".")[0]
        siblings = [k for k in valid if k.rpartition(".")[0] == (section if section in valid else "")]
        elsewhere = [k for k in valid if k.rpartition(".")[2] == key.rpartition(".")[2]]  # `gamma` is learn.gamma
        near = elsewhere or difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
        raise UnknownNameError("setting", key, {*siblings, *near})


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain nested dictionaries and lists, as YAML and JSON know them."""
    values = flatten(dataclasses.asdict(config))
    return unflatten({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def to_yaml(config: TrainConfig) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def from_dict(values: Mapping[str, Any], source: str = "") -> TrainConfig:
    """The inverse of `to_dict`."""
    return validate(build(TrainConfig, values, source=source))


def differing_keys(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """``{dotted key: (old, new)}`` of the settings that must agree for a run to be resumed."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    free = {key for key in FREE_ON_RESUME if not key.endswith(".*")}
    sections = tuple(key[:-1] for key in FREE_ON_RESUME if key.endswith(".*"))
    return {
        key: (before[key], after[key])
        for key in after
        if before[key] != after[key] and key not in free and not key.startswith(sections)
    }
