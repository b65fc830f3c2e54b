"""Settings of the learner. Defaults are the paper's where it gives a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pld_core.errors import ConfigError


@dataclass(frozen=True)
class LearnerConfig:
    """Hashable settings of soft actor-critic and Cal-QL.

    residual: executed action is ``clip(a_b + xi u)``; otherwise ``clip(u)``, and the base action is no
    input of the actor (though the state that the stages give it still holds the base's plan).
    critic_actor_ratio: critic updates per actor update. value_range: clip of the critic's target, right
    for a binary reward at the end. target_entropy: None is ``-A``. actor_q: which summary of the
    critics the actor climbs.
    """

    residual: bool = True
    residual_scale: float = 0.5  # xi when it is fully on: the unit in which a critic sees the residual
    state_groups: tuple[int, ...] = ()  # sizes of the state's parts, which get equal weight; empty: one part
    passive: tuple[int, ...] = ()  # entries of the action that are the base's alone, such as its gripper
    encoder: Literal["features", "resnet10"] = "features"
    batch_size: int = 256
    gamma: float = 0.99
    hidden: tuple[int, ...] = (256, 256, 256)
    critics: int = 2
    critic_actor_ratio: int = 2
    learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    polyak: float = 0.005
    init_temperature: float = 1.0
    min_temperature: float = 0.0
    target_entropy: float | None = None
    log_std_min: float = -5.0
    log_std_max: float = 1.0
    init_log_std: float = 0.0
    actor_q: Literal["min", "mean"] = "min"
    backup_entropy: bool = False
    value_range: tuple[float, float] | None = (0.0, 1.0)
    residual_l2: float = 0.0  # weight of mean |u|^2 in the actor's loss
    calql_alpha: float = 1.0  # 5 in most public settings, 1 where the reward is binary
    calql_actions: int = 10  # n: sampled actions of each of the three kinds
    calql_target_actions: int = 1  # next actions over which the target takes the maximum
    calql_updates_actor: bool = True
    latent_dim: int = 256
    image_shift: int = 4  # pixels of random-shift augmentation
    train_encoder: bool = True

    def __post_init__(self) -> None:
        positive = (
            "residual_scale", "batch_size", "critics", "critic_actor_ratio", "learning_rate", "grad_clip",
            "temperature_learning_rate", "init_temperature", "calql_actions", "calql_target_actions", "latent_dim",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        not_negative = ("weight_decay", "min_temperature", "residual_l2", "calql_alpha", "image_shift")
        for name in not_negative:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.state_groups and min(self.state_groups) < 1:
            raise ConfigError(f"state_groups is {self.state_groups}; give positive sizes.")
        if not 0.0 < self.gamma <= 1.0 or not 0.0 < self.polyak <= 1.0:
            raise ConfigError(f"gamma ({self.gamma}) and polyak ({self.polyak}) must be in (0, 1].")
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden is {self.hidden}; give at least one positive layer width.")
        if not self.log_std_min < self.init_log_std < self.log_std_max:
            raise ConfigError(
                f"init_log_std {self.init_log_std} must lie between log_std_min {self.log_std_min} "
                f"and log_std_max {self.log_std_max}."
            )
        if self.init_temperature < self.min_temperature:
            raise ConfigError(f"init_temperature {self.init_temperature} is below min_temperature.")
        self._check_choices()

    def _check_choices(self) -> None:
        for name, valid in (("encoder", ("features", "resnet10")), ("actor_q", ("min", "mean"))):
            if getattr(self, name) not in valid:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; valid: {', '.join(valid)}.")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"value_range is {self.value_range}; give (low, high) with low < high, or None.")
        if self.value_range is not None and self.backup_entropy:
            raise ConfigError("backup_entropy moves values outside any reward range; set value_range to None.")
