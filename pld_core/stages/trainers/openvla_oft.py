"""OpenVLA-OFT's trainer (moojink/openvla-oft): RLDS, what it must register, and the command of its finetune.py."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pld_core.data.rlds import VERSION, write_rlds
from pld_core.errors import ConfigError
from pld_core.stages.trainers.job import Job, Progress, Trainer, resource, template
from pld_core.types import ActionSpec, Episode

COMMIT = "213c5ff8d6e9673885d7e4dd6f2ce73b5d8a45db"  # of openvla-oft, which all of this was checked against
START = "openvla/openvla-7b"
CONFIG, POLICY = "pld_openvla_oft.py", "policy.yaml"
DATASET = "pld"  # the name under which data/rlds.py writes
GRIPPER = 6  # OpenVLA's actions: three of translation, three of rotation, and the gripper


class OpenVlaOft(Trainer):
    name = "openvla_oft"
    needs = ("tensorflow_datasets", "pip install tensorflow tensorflow-datasets")

    def check(self, actions: ActionSpec) -> None:
        if (actions.dim, actions.gripper) != (GRIPPER + 1, GRIPPER):
            raise ConfigError(
                f"OpenVLA-OFT takes seven actions, the gripper last; this robot has {actions.dim} with the gripper at "
                f"{actions.gripper}. Use another distill.trainer."
            )
        super().check(actions)

    def write_dataset(self, job: Job, progress: Progress) -> None:
        """Complete or not at all; one that is there stays."""
        folder = job.folder / "datasets"
        if (folder / DATASET / VERSION / "dataset_info.json").exists():
            return
        for pattern in (f"{VERSION}*", "incomplete.*"):  # what a killed writer left, as TFDS names it
            for left in (folder / DATASET).glob(pattern):
                shutil.rmtree(left, ignore_errors=True)

        def counted() -> Iterator[tuple[Episode, dict[str, Any]]]:
            for number, episode in enumerate(job.episodes):
                yield episode, {}
                progress(number + 1)

        write_rlds(folder, counted())

    def files(self, job: Job) -> Mapping[str, str]:
        return {
            CONFIG: template("openvla_oft_config.txt", COMMIT, settings(job)),
            POLICY: yaml.safe_dump(policy(job), sort_keys=False),
            "train.sh": _script("trains VLA*", train_command(job)),
        }

    def readme(self, job: Job) -> str:
        left_out = [name for name in job.cameras if name not in views(job).values()]
        return resource("openvla_oft_readme.txt").format(
            run=job.run,
            commit=COMMIT,
            episodes=len(job.episodes),
            ticks=sum(len(e) for e in job.episodes),
            start=job.settings.start or START,
            primary=views(job)["primary"],
            wrist=views(job)["wrist"] or "none",
            left_out=f" Left out: {', '.join(left_out)}." if left_out else "",
            horizon=job.horizon,
            proprio=job.proprio_dim,
            steps=job.settings.steps,
            save_every=save_every(job.settings.steps),
            rank=job.settings.rank,
            mode=""
            if job.settings.mode == "lora"
            else f" `distill.mode {job.settings.mode}` is not what its trainer does.",
            train=train_command(job),
            deploy=deploy_command(job),
        )


def views(job: Job) -> dict[str, str | None]:
    """OpenVLA-OFT's views, and the cameras that are them."""
    primary, *others = [*job.outer, *job.wrists] or [None]
    return {"primary": primary, "wrist": next((name for name in others if name in job.wrists), None)}


def settings(job: Job) -> dict[str, object]:
    """The constants of the generated file."""
    return {
        "DATASET_NAME": DATASET,
        "PRIMARY": views(job)["primary"],
        "WRIST": views(job)["wrist"],
        "NUM_ACTIONS_CHUNK": job.horizon,
        "ACTION_DIM": job.action_dim,
        "PROPRIO_DIM": job.proprio_dim,
    }


def policy(job: Job) -> dict[str, object]:
    """What ``--policy openvla:policy.yaml`` is: the gripper's 0 (closed) and 1 (open) become -1 and 1."""
    seen = {"full_image": views(job)["primary"], "wrist_image": views(job)["wrist"]}
    return {
        "server": "http://localhost:8777",
        "action_horizon": job.horizon,
        "version": f"{job.slug}-{job.settings.steps}",
        "keys": {
            "images": {key: {"camera": camera} for key, camera in seen.items() if camera},
            "proprio_dim": job.proprio_dim,
            "state": {"state": None},
            "prompt": "instruction",
            "action": "actions",
            "action_scale": [1.0] * GRIPPER + [2.0],
            "action_offset": [0.0] * GRIPPER + [-1.0],
        },
    }


def _network(job: Job) -> dict[str, object]:
    """What finetune.py and deploy.py must agree about."""
    return {
        "use_l1_regression": True,
        "use_diffusion": False,
        "use_film": False,
        "num_images_in_input": 2 if views(job)["wrist"] else 1,
        "use_proprio": True,
        "lora_rank": job.settings.rank,
    }


def save_every(steps: int) -> int:
    """A divisor, so that the last step is saved: a fifth of the steps or the next smaller part, at most 20 in all."""
    return steps // next(parts for parts in (*range(5, 21), 4, 3, 2, 1) if steps % parts == 0)


def train_command(job: Job) -> str:
    steps = job.settings.steps
    flags = {
        "vla_path": shlex.quote(job.settings.start or START),
        "data_root_dir": '"$HERE/datasets"',
        "dataset_name": DATASET,
        "run_root_dir": '"$HERE/checkpoints"',
        **_network(job),
        "batch_size": 8,
        "learning_rate": 5e-4,
        "num_steps_before_decay": max(1, steps * 2 // 3),
        "max_steps": steps,
        "save_freq": save_every(steps),
        "image_aug": True,
        "run_id_override": job.slug,
    }
    launch = (
        f'torchrun --standalone --nnodes 1 --nproc-per-node "${{GPUS:-1}}" "$HERE/{CONFIG}" vla-scripts/finetune.py'
    )
    return f"WANDB_MODE=offline {launch} {_flags(flags)}"


def deploy_command(job: Job) -> str:
    checkpoint = f'"$HERE/checkpoints/{job.slug}--{job.settings.steps}_chkpt"'
    flags = {"pretrained_checkpoint": checkpoint, **_network(job), "center_crop": True, "unnorm_key": DATASET}
    return f'python "$HERE/{CONFIG}" vla-scripts/deploy.py {_flags(flags)}'


def _flags(values: Mapping[str, object]) -> str:
    return " ".join(f"--{name} {value}" for name, value in values.items())


def _script(what: str, command: str) -> str:
    return f"""#!/usr/bin/env bash
# OPENVLA_OFT=/path/to/openvla-oft GPUS=1 bash THIS: {what}. Written by PLD for openvla-oft {COMMIT[:7]}.
set -euo pipefail
HERE=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
cd "${{OPENVLA_OFT:?say where the checkout of openvla-oft is}}"
{command}
"""
