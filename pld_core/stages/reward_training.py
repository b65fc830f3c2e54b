"""``pld reward-train``: labelled episodes to a calibrated success classifier with its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pld_core import bring, system
from pld_core.console import Console
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError
from pld_core.interfaces import BasePolicy
from pld_core.rewards.classifier.augment import Augmentation
from pld_core.rewards.classifier.calibration import calibrate, calibration_error, choose_threshold
from pld_core.rewards.classifier.dataset import (
    SHARES_OF_TWO,
    Frames,
    read_frames,
    refuse_repeated,
    require_both_outcomes,
    require_folder,
    split,
)
from pld_core.rewards.classifier.drift import DriftMonitor
from pld_core.rewards.classifier.measures import Scored, measure, roc
from pld_core.rewards.classifier.memory_training import MemoryTraining, train_memory
from pld_core.rewards.classifier.model import Decision, SuccessClassifier
from pld_core.rewards.classifier.network import NetworkShape, init_network, judge_many, take_eyes
from pld_core.rewards.classifier.training import ClassifierTraining, fingerprint, train_classifier
from pld_core.rewards.debounce import Debounce
from pld_core.rewards.predicate import Predicate
from pld_core.stages.reward_config import RewardTrainConfig
from pld_core.stages.reward_data import collect_labelled
from pld_core.stages.reward_report import write_reward_report
from pld_core.stages.workspace import shipped_base
from pld_core.stations import load_robot
from pld_core.storage import write_json
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.layers import Params

CHECKPOINT = "success.ckpt"


@dataclass(frozen=True)
class Judged:
    """Frames with what the network says of them: logits ``[N]``, features ``[N, F]``."""

    frames: Frames
    logits: np.ndarray
    features: np.ndarray

    def scored(self, classifier: SuccessClassifier) -> list[Scored]:
        """Every episode with its calibrated probabilities."""
        frames, decision = self.frames, classifier.decision
        probability = decision.calibration.probability(self.logits)
        allowed = decision.parsed().holds_each(frames.proprio)
        parts = [frames.rows(n) for n in range(len(frames.names))]
        return [
            Scored(name, source, probability[rows], frames.success[rows], allowed[rows])
            for name, source, rows in zip(frames.names, frames.sources, parts, strict=True)
        ]


def train_reward(config: RewardTrainConfig) -> dict[str, Any]:
    """Collect (where a task is named), train, decide, measure, report; returns what metrics.json holds.

    Interrupted, the same call goes on: episodes and training states are kept in the folder.
    """
    folder = config.folder
    refuse_repeated([*_folders(config), *config.held_out])
    for given in (*config.data, *config.held_out):
        require_folder(given)
    stages = ("collect", "train", *(("remember",) if config.memory_dim else ()), "measure")
    with Console(stages, f"PLD success classifier -> {folder}") as console:
        policy = _policy(config) if config.task or config.encoder == "base" else None
        names = _collect(config, policy, console) if config.task else _names_of(config.robot)  # type: ignore[arg-type]
        Predicate.parse(config.predicate, names)  # before the minutes of training, not after
        parts = _parts(config, console)
        network = _train(config, policy, parts[0], console)
        with console.stage("measure"):
            classifier, judged = _decide(config, network, parts, names)
            classifier.save(folder / CHECKPOINT)
            metrics = _metrics(classifier, judged)
            write_json(folder / "metrics.json", metrics)
            held = judged["held-out"]
            path = write_reward_report(folder, classifier, held.frames, held.logits, held.scored(classifier), metrics)
        console.note(_closing(metrics, folder / CHECKPOINT, path))
    return metrics


# -- data --------------------------------------------------------------------------------------------


def _folders(config: RewardTrainConfig) -> list[Path]:
    return [*([config.folder / "episodes"] if config.task else []), *config.data]


def _parts(config: RewardTrainConfig, console: Console) -> tuple[Frames, ...]:
    """Training, validation and held-out episodes. What is held out apart leaves more to choose the threshold by."""
    frames = read_frames(_folders(config), config.cameras)
    if not config.held_out:
        return split(frames, config.seed)
    parts = split(frames, config.seed, SHARES_OF_TWO)
    del frames  # gigabytes
    held_out = read_frames(config.held_out, config.cameras)
    require_both_outcomes(held_out.successful, "episodes of --held-out")
    seen, given = parts[0], held_out
    if seen.cameras != given.cameras or seen.proprio.shape[1] != given.proprio.shape[1]:
        raise ConfigError(
            f"The episodes of --held-out have cameras {given.cameras} and {given.proprio.shape[1]} entries of "
            f"proprioception, those of the training {seen.cameras} and {seen.proprio.shape[1]}."
        )
    known = {scene for part in parts for scene in part.scenes}
    seen_before = sum(scene in known for scene in held_out.scenes)
    if seen_before:  # of a real robot a seed says nothing
        console.note(
            f"{seen_before} of {len(held_out.names)} held-out episodes have task and seed of others: simulated, they "
            "begin as what was learnt. Collect them with another --seed."
        )
    return *parts, held_out


def _policy(config: RewardTrainConfig) -> BasePolicy:
    """What drives while collecting, and whose eyes the classifier may take over."""
    if config.policy == "compact":
        return CompactVLA.load(shipped_base("flow"))
    if config.policy.endswith(".vla"):
        return CompactVLA.load(Path(config.policy))
    return bring.base_policy(config.policy)


def _collect(config: RewardTrainConfig, policy: BasePolicy, console: Console) -> tuple[str, ...]:
    """Episodes of the task into ``episodes``; returns the names of its proprioception."""
    environments = bring.environment_factory(config.task)(config.lanes)
    names = tuple(environments[0].observation_spec.proprio_names)
    Predicate.parse(config.predicate, names)
    store = EpisodeStore(config.folder / "episodes")
    try:
        with console.stage("collect", config.episodes, "episodes") as shown:
            collect_labelled(
                environments, policy, store, config.episodes, config.seed,
                on_progress=lambda done, metrics: shown.update(done, **metrics),
            )  # fmt: skip
        return names
    finally:
        for environment in environments:
            environment.close()


def _names_of(robot: str) -> tuple[str, ...]:
    """What a station calls the entries of its proprioception; nothing without a station."""
    return tuple(load_robot(robot).proprio) if robot else ()


# -- training ----------------------------------------------------------------------------------------


def _train(
    config: RewardTrainConfig, policy: BasePolicy | None, frames: Frames, console: Console
) -> tuple[NetworkShape, Params, dict[str, np.ndarray]]:
    proprio_dim = frames.proprio.shape[1] if config.proprio else 0
    shape = NetworkShape(
        frames.cameras, proprio_dim, config.hidden, memory_dim=config.memory_dim, memories=config.memories
    )
    if config.encoder == "base":
        if not isinstance(policy, CompactVLA):
            raise ConfigError(
                f"{type(policy).__name__} has no image encoder to start from; train with --encoder scratch."
            )
        shape = dataclasses.replace(shape, encoder=policy.shape.config)
    params, stats = init_network(shape, config.seed)
    if config.encoder == "base":
        params["cameras"], stats["text"] = take_eyes(policy, frames.cameras, frames.instruction)  # type: ignore[arg-type]
    given = params["cameras"]
    training = ClassifierTraining(
        steps=config.steps, batch_size=config.batch_size, learning_rate=config.learning_rate,
        mining_rounds=config.mining_rounds, seed=config.seed,
        augmentation=Augmentation(config.shift, config.brightness, config.contrast, config.tint),
    )  # fmt: skip
    origin = f"base {policy.version}" if config.encoder == "base" and policy else config.encoder
    with console.stage("train", training.total_steps, "steps") as shown:
        params, stats = train_classifier(
            params, stats, shape, frames, training, config.folder / "training",
            progress=lambda step, loss: shown.update(step, loss=loss),
            origin=origin,
        )  # fmt: skip
    if not config.memory_dim:
        return shape, params, stats
    memory = MemoryTraining(config.memory_steps, augmentation=training.augmentation, seed=config.seed)
    with console.stage("remember", memory.steps, "steps") as shown:
        params, stats = train_memory(
            {**params, "given": given}, stats, shape, frames, memory, config.folder / "training" / "memory.state",
            progress=lambda step, loss: shown.update(step, loss=loss),
            fingerprint=f"{training}, {fingerprint(shape, frames, training, origin)}",
        )  # fmt: skip
    return shape, params, stats


def _decide(
    config: RewardTrainConfig,
    network: tuple[NetworkShape, Params, dict[str, np.ndarray]],
    parts: Sequence[Frames],
    names: tuple[str, ...],
) -> tuple[SuccessClassifier, dict[str, Judged]]:
    """Calibration, threshold and drift alarm, all from the validation episodes; the held-out ones are only judged."""
    judged = {
        part: Judged(frames, *judge_many(*network, frames.images, frames.proprio, frames.episode))
        for part, frames in zip(("validation", "held-out"), parts[1:], strict=True)
    }
    seen = judged["validation"]
    debounce = Debounce(*config.debounce)
    decision = Decision(calibrate(seen.logits, seen.frames.success), 0.5, debounce, config.predicate, names)
    drift = DriftMonitor.fit(_sampled_features(network, parts[0]), seen.features)
    draft = SuccessClassifier(*network, decision, drift)
    episodes = [(np.where(e.allowed, e.probability, 0.0), e.success) for e in seen.scored(draft)]
    threshold = choose_threshold(episodes, debounce, config.max_false_positive_rate)
    decision = dataclasses.replace(decision, threshold=threshold)
    return SuccessClassifier(*network, decision, drift, _provenance(config, parts)), judged


def _sampled_features(
    network: tuple[NetworkShape, Params, dict[str, np.ndarray]], frames: Frames, most: int = 20_000
) -> np.ndarray:
    """What the trained eyes say of some of the frames, ``[N, F]``."""
    shape, params, stats = network
    rows = slice(None, None, 1 + len(frames) // most)
    images = {name: pictures[rows] for name, pictures in frames.images.items()}
    alone = dataclasses.replace(shape, memory_dim=0)
    return judge_many(alone, params, stats, images, frames.proprio[rows], frames.episode[rows])[1]


def _provenance(config: RewardTrainConfig, parts: Sequence[Frames]) -> dict[str, Any]:
    revision, dirty = system.git_revision()
    names = ("training", "validation", "held_out")
    return {
        "settings": {k: _plain(v) for k, v in dataclasses.asdict(config).items()},
        "folders": [str(folder) for folder in [*_folders(config), *config.held_out]],
        "episodes": {name: len(frames.names) for name, frames in zip(names, parts, strict=True)},
        "frames": {name: len(frames) for name, frames in zip(names, parts, strict=True)},
        "positive_frames": {name: int(f.success.sum()) for name, f in zip(names, parts, strict=True)},
        "instruction": parts[0].instruction,
        "git": revision,
        "dirty": dirty,
        "machine": system.describe(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# -- results -----------------------------------------------------------------------------------------


def _metrics(classifier: SuccessClassifier, judged: dict[str, Judged]) -> dict[str, Any]:
    decision = classifier.decision
    metrics: dict[str, Any] = {
        "checkpoint": CHECKPOINT,
        "threshold": decision.threshold,
        "temperature": decision.calibration.temperature,
        "offset": decision.calibration.offset,
        "debounce": [decision.debounce.needed, decision.debounce.window],
        "predicate": decision.predicate,
        "cameras": [list(camera) for camera in classifier.shape.cameras],
        "provenance": classifier.provenance,
    }
    for part in ("validation", "held-out"):
        data = judged[part]
        episodes = data.scored(classifier)
        raw = 1.0 / (1.0 + np.exp(-np.clip(data.logits, -30, 30)))
        truth = data.frames.success
        metrics[part.replace("-", "_")] = {
            **measure(episodes, decision.threshold, decision.debounce),
            "area_under_roc": roc(episodes)[2],
            "calibration_error": {
                "before": calibration_error(raw, truth),
                "after": calibration_error(decision.calibration.probability(data.logits), truth),
            },
            "drift_alarms": float(classifier.drift.drifted(data.features).mean()),
            "by_source": {
                source: measure([e for e in episodes if e.source == source], decision.threshold, decision.debounce)
                for source in sorted(set(data.frames.sources))
            },
        }
    return metrics


def _closing(metrics: dict[str, Any], checkpoint: Path, report: Path) -> str:
    held = metrics["held_out"]

    def percent(section: str, name: str) -> str:
        found = held[section][name]
        return f"{100 * found['rate']:.1f} % ({found['count']}/{found['of']})"

    return (
        f"held-out episodes: recall {percent('episodes', 'recall')}, "
        f"false positives {percent('episodes', 'false_positive')}; per frame: recall {percent('frames', 'recall')}, "
        f"false positives {percent('frames', 'false_positive')}\n"
        f"use it: pld train --reward classifier:{checkpoint}\nreport: {report}"
    )
