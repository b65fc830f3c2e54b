"""openpi's own trainer (Physical-Intelligence/openpi): LeRobot v2.1, a TrainConfig, and its scripts' commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import yaml

from pld_core.config_rules import openpi_start
from pld_core.errors import ConfigError
from pld_core.stages.trainers.job import Job, Progress, Trainer, resource, template
from pld_core.types import ActionSpec

COMMIT = "15a9616a00943ada6c20a0f158e3adb39df2ccac"  # of openpi, which all of this was checked against
CONFIG, POLICY = "pld_openpi.py", "policy.yaml"
EXPERIMENT = "pld"
LORA_RANKS = "16 in gemma_2b_lora, 32 in gemma_300m_lora, the action expert"  # models/gemma.py
WIDTH = 32  # openpi pads states and actions to so many numbers
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


class OpenPi(Trainer):
    name = "openpi"
    needs = ("pyarrow", "pip install 'pld[lerobot]' (in a checkout: pip install -e '.[lerobot]')")

    def check(self, actions: ActionSpec) -> None:
        super().check(actions)
        if actions.dim > WIDTH:
            raise ConfigError(f"openpi's models have {WIDTH} actions, this robot {actions.dim}.")

    def write_dataset(self, job: Job, progress: Progress) -> None:
        from pld_core.data.lerobot import DatasetSpec, LeRobotReader, LeRobotWriter, layout
        from pld_core.data.lerobot.provenance import describe, identity

        folder = job.folder / "datasets" / repo_id(job)
        writer = LeRobotWriter(folder, DatasetSpec(job.actions, job.proprio_names), layout.V21)
        present = LeRobotReader(folder).identities() if (folder / layout.INFO).exists() else set()
        for number, episode in enumerate(job.episodes):
            if identity(describe(episode, {})) not in present:
                writer.append(episode)
            progress(number + 1)

    def files(self, job: Job) -> Mapping[str, str]:
        return {
            CONFIG: template("openpi_config.txt", COMMIT, settings(job)),
            POLICY: yaml.safe_dump(policy(job), sort_keys=False),
            "train.sh": _script("trains VLA*; run again, it goes on where it stopped", *train_commands(job)),
            "serve.sh": _script("serves VLA* to PLD on port 8000", serve_command(job)),
        }

    def readme(self, job: Job) -> str:
        left_out = [name for name in job.cameras if name not in slots(job).values()]
        return resource("openpi_readme.txt").format(
            run=job.run,
            commit=COMMIT,
            episodes=len(job.episodes),
            frames=sum(len(e) for e in job.episodes),
            dataset=f"datasets/{repo_id(job)}",
            name=config_name(job),
            start="@".join(openpi_start(job.settings.start, job.policy)),
            steps=job.settings.steps,
            learnt=_learnt(job),
            train="\n".join(train_commands(job)),
            serve=serve_command(job),
            slots="".join(f"\n| {slot} | {camera} |" for slot, camera in slots(job).items()),
            left_out=f"\nNot seen by the model, which has three slots: {', '.join(left_out)}.\n" if left_out else "",
        )


def repo_id(job: Job) -> str:
    return f"pld/{job.slug}"


def config_name(job: Job) -> str:
    return f"pld_{job.slug}"


def slots(job: Job) -> dict[str, str]:
    """The model's slots for pictures, and the cameras in them: the first that is at no wrist, then those at wrists."""
    first = (job.outer or job.wrists)[:1]
    return dict(zip(SLOTS, [*first, *(n for n in (*job.wrists, *job.outer) if n not in first)], strict=False))


def settings(job: Job) -> dict[str, object]:
    """The constants of the generated config."""
    start_config, start_checkpoint = openpi_start(job.settings.start, job.policy)
    keys = job.keys
    pictures = list(keys.images.values()) if keys else []
    entries: list[int] = []
    for taken in keys.state.values() if keys else ():
        entries += range(keys.proprio_dim) if taken is None else taken  # type: ignore[union-attr]
    return {
        "CONFIG_NAME": config_name(job),
        "REPO_ID": repo_id(job),
        "START_CONFIG": start_config,
        "START_CHECKPOINT": start_checkpoint,
        "STEPS": job.settings.steps,
        "LORA": job.settings.mode == "lora",
        "ACTION_HORIZON": job.horizon,
        "CAMERAS": job.cameras,
        "SLOTS": slots(job),
        "MIRRORED": [key.camera for key in pictures if key.mirror],
        "CROPPED": {key.camera: key.crop for key in pictures if key.crop < 1.0},
        "STRETCHED": {key.camera: (key.height, key.width) for key in pictures if key.fit == "stretch" and key.height},
        "PROPRIO_DIM": job.proprio_dim,
        "STATE": entries if keys and entries != list(range(job.proprio_dim)) else None,
        "ACTION_DIM": job.action_dim,
        "ACTION_SCALE": list(keys.action_scale if keys and keys.action_scale else [1.0] * job.action_dim),
        "ACTION_OFFSET": list(keys.action_offset if keys and keys.action_offset else [0.0] * job.action_dim),
    }


def policy(job: Job) -> dict[str, object]:
    """What ``--policy openpi:policy.yaml`` is: observations as they are, all conversion is the server's."""
    return {
        "server": "ws://localhost:8000",
        "action_horizon": job.horizon,
        "version": f"{config_name(job)}-{job.settings.steps}",
        "keys": {
            "images": {f"observation/{camera}": {"camera": camera} for camera in job.cameras},
            "proprio_dim": job.proprio_dim,
            "state": {"observation/state": None},
            "prompt": "prompt",
            "action": "actions",
        },
    }


def train_commands(job: Job) -> tuple[str, str]:
    run = f'uv run "$HERE/{CONFIG}"'
    return (
        f"{run} scripts/compute_norm_stats.py --config-name={config_name(job)}",
        f"XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 {run} scripts/train.py {config_name(job)} "
        f"--exp-name={EXPERIMENT} --resume",
    )


def serve_command(job: Job) -> str:
    last = job.settings.steps - 1  # the step that train.py always saves
    folder = f'"$HERE/checkpoints/{config_name(job)}/{EXPERIMENT}/{last}"'
    return (
        f'uv run "$HERE/{CONFIG}" scripts/serve_policy.py --port=8000 policy:checkpoint '
        f"--policy.config={shlex.quote(config_name(job))} --policy.dir={folder}"
    )


def _learnt(job: Job) -> str:
    if job.settings.mode != "lora":
        return "All weights are trained (`distill.mode full`)."
    return (
        f"LoRA (`distill.mode lora`) has the ranks of openpi's variants: {LORA_RANKS}. `distill.rank`, "
        f"{job.settings.rank}, changes nothing."
    )


def _script(what: str, *commands: str) -> str:
    lines = [
        "#!/usr/bin/env bash",
        f"# OPENPI=/path/to/openpi bash THIS: {what}. Written by PLD for openpi {COMMIT[:7]}.",
        "set -euo pipefail",
        'HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)',
        'export HF_LEROBOT_HOME="$HERE/datasets"',
        'cd "${OPENPI:?say where the checkout of openpi is}"',
        *commands,
    ]
    return "\n".join(lines) + "\n"
