"""Which values the settings may have: everything is refused at load, in the user's own words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pld_core.errors import ConfigError
from pld_core.strict import flatten

if TYPE_CHECKING:
    from pld_core.config import BaseConfig, DistillConfig, LearnConfig, TrainConfig

# Ranges by the last part of a key, so that the same name means the same in every section.
POSITIVE = frozenset(
    (
        "lanes",
        "demonstrations",
        "steps",
        "batch_size",
        "noise_ticks",
        "temperature_learning_rate",
        "ready_timeout_s",
        "learning_rate",
        "successes",
        "max_episodes",
        "episodes",
        "drift_samples",
        "other_episodes",
    )
    + ("updates_per_step", "critic_updates_per_actor_update", "replay_capacity", "grad_clip", "critics", "rank")
    + ("initial_temperature", "calql_actions", "eval_episodes", "checkpoint_seconds", "video_size", "video_fps")
    + ("image_every", "n_step", "replan_every", "round_episodes", "gamma", "tau")
    + ("grounding_every", "grounding_frames", "grounding_steps")
)
NOT_NEGATIVE = frozenset(
    ("seed", "xi_ramp_steps", "warmup_episodes", "critic_warmup_steps", "min_temperature", "eval_every")
    + ("calql_steps", "calql_alpha", "policy_features", "drift_states")
)
FRACTIONS = frozenset(
    ("offline_fraction", "gamma", "tau", "xi_max", "jump_start", "jump_start_max", "target_success", "alpha")
)

SEEDS = 100  # runs; stages/seeds.py keeps the episodes of 200 apart, and a run may take those of its seed + 100
# Public checkpoints of openpi by the name of the policy file that the base is served with; those of its README.
OPENPI_STARTS = {name: f"pi05_{name}@gs://openpi-assets/checkpoints/pi05_{name}" for name in ("libero", "droid")}
LOG_STD = (-5.0, 1.0)  # bounds of the residual's Gaussian, see rl/config.py


def validate(config: TrainConfig) -> TrainConfig:
    """The same config, or a ConfigError that names the setting that is out of range."""
    rules = (
        (FRACTIONS, lambda v: 0 <= v <= 1, "between 0 and 1"),
        (POSITIVE, lambda v: v > 0, "greater than 0"),
        (NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
    )
    for key, value in flatten(dataclasses.asdict(config)).items():
        for leaves, fits, rule in rules:
            parts = value if isinstance(value, tuple) else () if value is None else (value,)
            if key.rpartition(".")[2] in leaves and not all(map(fits, parts)):  # NaN fits nowhere
                raise ConfigError(f"{key} must be {rule}, got {value!r}.")
    if config.seed >= SEEDS:
        raise ConfigError(f"seed must be below {SEEDS}, got {config.seed}.")
    if config.replan_every % config.probe.image_every:
        raise ConfigError(
            f"probe.image_every is {config.probe.image_every} and replan_every {config.replan_every}: the base would "
            "plan from old pictures. Give a divisor of replan_every."
        )
    if config.evaluate.other_tasks:
        _validate_other_tasks(config)
    _validate_base(config.base)
    _validate_learn(config.learn)
    _validate_distill(config.distill, config.probe.image_every, config.policy)
    if any(part in config.run_name for part in ("/", "\\", "\0")) or config.run_name in (".", "..", "latest"):
        raise ConfigError(f"name must be a plain folder name other than 'latest', got {config.run_name!r}.")
    return config


def _validate_other_tasks(config: TrainConfig) -> None:
    others = config.evaluate.other_tasks
    if config.runner != "local":
        raise ConfigError(f"evaluate.other_tasks is {others}: other tasks are simulated, with runner local only.")
    if config.task in others or len({*others}) < len(others):
        raise ConfigError(
            f"evaluate.other_tasks is {others}: give each once, and not {config.task!r}, which is trained."
        )


def _validate_base(base: BaseConfig) -> None:
    if len(base.demonstrations) != len(base.tasks):
        raise ConfigError(
            f"base.demonstrations needs one number for each of base.tasks {base.tasks}, got {base.demonstrations}."
        )


def _validate_learn(learn: LearnConfig) -> None:
    """What the learner would refuse as well, hours later and in its own words."""
    if not learn.hidden or min(learn.hidden) < 1:
        raise ConfigError(f"learn.hidden must list layer widths of 1 or more, got {learn.hidden!r}.")
    low, high = LOG_STD
    if not low < learn.initial_log_std < high:
        raise ConfigError(f"learn.initial_log_std must lie between {low} and {high}, got {learn.initial_log_std!r}.")
    if learn.initial_temperature < learn.min_temperature:
        raise ConfigError(
            f"learn.initial_temperature ({learn.initial_temperature}) must not be below learn.min_temperature "
            f"({learn.min_temperature})."
        )
    if learn.algorithm == "pld" and learn.calql_steps and not learn.xi_max:
        raise ConfigError("learn.calql_steps needs learn.xi_max greater than 0: a residual of scale 0 has no density.")
    if learn.replay_capacity < 2:
        raise ConfigError(f"learn.replay_capacity must be 2 or more, got {learn.replay_capacity}.")


def _validate_distill(distill: DistillConfig, image_every: int, policy: str) -> None:
    trainer = distill.trainer
    if trainer not in ("openpi", "openvla_oft"):
        if distill.start:
            raise ConfigError(
                f"distill.start is for trainers elsewhere, distill.trainer is {trainer}: give openpi or openvla_oft, "
                "or leave it out."
            )
        return
    if image_every > 1:
        raise ConfigError(
            f"distill.trainer {trainer} learns every tick with its picture; probe.image_every is {image_every}. Give 1."
        )
    if distill.mode == "head":
        raise ConfigError(f"distill.trainer {trainer} has no mode head; give distill.mode full or lora.")
    if trainer == "openpi":
        openpi_start(distill.start, policy)


def openpi_start(start: str, policy: str) -> tuple[str, str]:
    """A config of openpi's and a checkpoint, of ``CONFIG@CHECKPOINT``; empty: the public one of the base ``policy``."""
    kind, _, argument = policy.partition(":")
    base = argument.partition("@")[0] if kind == "openpi" else "libero"
    if not start and base not in OPENPI_STARTS:
        raise ConfigError(
            f"Which checkpoint VLA* starts from is not known of the base {policy!r}: give distill.start (pld export: "
            f"--start) as CONFIG@CHECKPOINT, what its server runs, such as {OPENPI_STARTS['droid']}."
        )
    name, _, checkpoint = (start or OPENPI_STARTS[base]).partition("@")
    if not name or not checkpoint:
        raise ConfigError(
            f"distill.start is {start!r}; for openpi give CONFIG@CHECKPOINT, such as {OPENPI_STARTS['libero']}."
        )
    return name, checkpoint.rstrip("/")
