"""What the stages of one run share: the run folder, the environments, the base policy, the learner."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pld_core import bring, registry
from pld_core.checkpoint import load_checkpoint
from pld_core.config import TrainConfig
from pld_core.console import Console
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import CheckpointError, ConfigError
from pld_core.interfaces import BasePolicy, Environment, TrainableVLA
from pld_core.rewards import BinaryReward
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.rl.presets import Algorithm, algorithm
from pld_core.runlog import RunLog
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.learn import ACTOR_LANES, actor_params
from pld_core.stages.runner import LocalRunner
from pld_core.vla.compact_vla import CompactVLA

STAGES = ("base", "harvest", "learn", "probe", "distill", "eval", "report")


class Workspace:
    """Made by the pipeline, closed by it; everything in it is built when first needed."""

    def __init__(self, config: TrainConfig, log: RunLog, console: Console, objects: dict[str, Any]) -> None:
        self.config, self.log, self.console = config, log, console
        self._objects = objects

    @property
    def folder(self) -> Path:
        return self.log.dir

    # -- world -----------------------------------------------------------------------------------

    @cached_property
    def runner(self) -> BackgroundRunner:
        """The environments (or the station) with the frozen base."""
        residual, features = self.algorithm.residual, self.config.learn.policy_features
        if self.config.runner != "local":
            make = registry.load("runners", self.config.runner)
            return BackgroundRunner(lambda: make(self.config, self.folder, self.policy, residual, features))
        factory = bring.environment_factory(self._objects.get("task", self.config.task))
        reward = bring.reward_factory(self._objects.get("reward", self.config.reward))
        looks = self.config.images_every_tick or self._wants_images
        every, simplified = self.config.probe.image_every, self.config.simplified_images
        settings = self.config.replan_every, residual, features, looks, every, simplified
        return BackgroundRunner(lambda: LocalRunner(factory(self.config.lanes), self.policy, reward, *settings))

    @property
    def judge(self) -> BackgroundRunner | None:
        """Where the reward sees for itself and a simulator knows better: the same runner with the simulator's word."""
        local = self.runner.runner
        simulated = isinstance(local, LocalRunner) and hasattr(self.environment, "stop_at_success")
        return self.runner.with_reward(BinaryReward) if simulated and local.sees_for_itself else None

    @property
    def environment(self) -> Environment:
        """The first lane; touch it only through ``runner.call``."""
        return self.runner.runner.environments[0]

    @property
    def task(self) -> str:
        return self.environment.task

    # -- policies --------------------------------------------------------------------------------

    @cached_property
    def policy(self) -> BasePolicy:
        """The frozen base: what the user brought, this run's own, or the one that ships with PLD.

        Raises CheckpointError if the run began with another one: its episodes hold that one's actions.
        """
        given = self._objects.get("policy", self.config.policy)
        own = isinstance(given, str) and given == "compact"
        policy = CompactVLA.load(self.base_path) if own else bring.base_policy(given)
        if hasattr(policy, "sft") and not isinstance(policy, TrainableVLA):
            raise ConfigError(
                f"{type(policy).__name__} has sft() but not all of TrainableVLA: add save(path) and the class method "
                "load(path), so that VLA* can be kept (pld_core/interfaces.py)."
            )
        began_with = self.log.stage_result("base")["policy"] if self.log.stage_done("base") else policy.version
        if policy.version != began_with:
            raise CheckpointError(
                f"{self.folder} was begun with base policy {began_with}, the present one is {policy.version}. Bring "
                "that one back, or start over with --fresh or under another --name."
            )
        return policy

    @property
    def base_path(self) -> Path:
        """Checkpoint of CompactVLA: made by this run, named by the user, or shipped."""
        own = self.folder / "checkpoints" / "base.vla"
        return own if own.exists() else base_checkpoint(self.config)

    @property
    def distilled_path(self) -> Path:
        return self.folder / "checkpoints" / "distilled.vla"

    @property
    def distilled(self) -> BasePolicy | None:
        """VLA*, as the base policy's class loads it."""
        return type(self.policy).load(self.distilled_path) if self.distilled_path.exists() else None  # type: ignore[attr-defined]

    # -- data ------------------------------------------------------------------------------------

    @cached_property
    def harvest(self) -> EpisodeStore:
        return EpisodeStore(self.folder / "harvest")

    @cached_property
    def probe(self) -> EpisodeStore:
        return EpisodeStore(self.folder / "probe")

    # -- learner ---------------------------------------------------------------------------------

    @cached_property
    def algorithm(self) -> Algorithm:
        return algorithm(self.config.learn.algorithm)

    @cached_property
    def encoder(self) -> str:
        """``auto`` is ``resnet10`` where there are cameras and a GPU, or cameras that only it could see."""
        if self.config.learn.encoder != "auto":
            return self.config.learn.encoder
        return "resnet10" if self._wants_images and self.environment.observation_spec.cameras else "features"

    @cached_property
    def _wants_images(self) -> bool:
        """Whether the residual learns from images, if there are any."""
        if self.config.learn.encoder != "auto":
            return self.config.learn.encoder == "resnet10"
        import jax

        # A residual without the base's features and without an image encoder would learn blind.
        return self.policy.feature_dim == 0 or jax.default_backend() != "cpu"

    @property
    def learns_from_images(self) -> bool:
        return self.encoder == "resnet10"

    @cached_property
    def state_groups(self) -> tuple[int, ...]:
        """Sizes of what the residual sees: proprioception, its change since the base planned (where it does not at
        every tick), features of the base, the base's plan."""
        plan = self.policy.action_horizon * self.environment.action_spec.dim
        seen = self.policy.feature_dim
        if self.config.learn.policy_features is not None:
            seen = min(seen, self.config.learn.policy_features)
        proprio = self.environment.observation_spec.proprio_dim
        change = proprio if self.config.replan_every > 1 else 0
        return tuple(size for size in (proprio, change, seen, plan) if size)

    @property
    def state_dim(self) -> int:
        return sum(self.state_groups)

    @cached_property
    def learner(self) -> Learner:
        learn = self.config.learn
        config = LearnerConfig(
            residual=self.algorithm.residual,
            residual_scale=learn.xi_max or 1.0,
            state_groups=self.state_groups,
            passive=self._passive,
            init_log_std=learn.initial_log_std,
            temperature_learning_rate=learn.temperature_learning_rate,
            encoder=self.encoder,  # type: ignore[arg-type]
            batch_size=learn.batch_size,
            gamma=learn.gamma,
            hidden=learn.hidden,
            critics=learn.critics,
            critic_actor_ratio=learn.critic_updates_per_actor_update,
            learning_rate=learn.learning_rate,
            grad_clip=learn.grad_clip,
            polyak=learn.tau,
            init_temperature=learn.initial_temperature,
            min_temperature=learn.min_temperature,
            target_entropy=learn.target_entropy,
            calql_alpha=learn.calql_alpha,
            calql_actions=learn.calql_actions,
        )
        spec = self.environment
        return Learner(config, self.state_dim, spec.action_spec.dim, self.image_specs)

    @property
    def _passive(self) -> tuple[int, ...]:
        """Entries of an arm's action that stay the base's: a residual could only make a gripper open at the wrong
        time, and its noise makes the tool tumble, where nothing in the task asks for a turn."""
        actions, learn = self.environment.action_spec, self.config.learn
        if actions.gripper is None or not self.algorithm.residual:
            return ()
        own = () if learn.residual_rotation else actions.rotation
        return own if learn.residual_gripper else (*own, actions.gripper)

    @property
    def image_specs(self) -> dict[str, tuple[int, int, int]]:
        return dict(self.environment.observation_spec.cameras) if self.learns_from_images else {}

    @property
    def specialist_path(self) -> Path:
        return self.folder / "checkpoints" / "specialist.ckpt"

    def specialist(self) -> LearnerActor:
        """The residual specialist that the learn stage left behind."""
        arrays, metadata = load_checkpoint(self.specialist_path)
        if metadata["policy_version"] != self.policy.version:
            raise CheckpointError(
                f"{self.specialist_path} belongs to base policy {metadata['policy_version']}, the present one is "
                f"{self.policy.version}. Use the base it was trained on, or learn again under another --name."
            )
        return LearnerActor(self.learner, actor_params(arrays), ACTOR_LANES)

    def minutes(self) -> float:
        """Wall-clock minutes of all stages so far, interrupted attempts included, pauses left out."""
        return sum(self.log.stage_seconds(stage) for stage in STAGES) / 60

    def close(self) -> None:
        if "runner" in self.__dict__:
            self.runner.close()


def compact(path: str = "") -> CompactVLA:
    """``compact``: the base that ships for the tabletop tasks; ``compact:PATH``: a checkpoint of CompactVLA."""
    return CompactVLA.load(Path(path) if path else shipped_base("flow"))


def base_checkpoint(config: TrainConfig) -> Path:
    """Of CompactVLA, as ``base.checkpoint`` names it; ConfigError if it is not there."""
    given = config.base.checkpoint
    if not given:
        return shipped_base(config.base.head)
    path = next((path for path in (shipped_checkpoint(given), Path(given)) if path.exists()), None)
    if path is None:
        shipped = ", ".join(sorted(path.stem for path in shipped_base("flow").parent.glob("*.vla")))
        raise ConfigError(
            f"There is no base checkpoint {given!r}. Give --base.checkpoint a path or one of {shipped}, or have "
            "this run make its own with --from_scratch."
        )
    return path


def shipped_base(head: str) -> Path:
    """The base checkpoint that comes with the package, one for all tabletop tasks."""
    return shipped_checkpoint(f"base_{head}")


def shipped_checkpoint(name: str) -> Path:
    """The file of a checkpoint that comes with the package, by its name without ending."""
    from pld_core.config import config_root

    return config_root() / "checkpoints" / f"{name}.vla"
