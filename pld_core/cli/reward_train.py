"""``pld reward-train``: a success classifier from labelled episodes."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core.errors import ConfigError


def run(args: Sequence[str]) -> int:
    import tyro

    from pld_core.stages.reward_config import RewardTrainConfig

    try:
        config = tyro.cli(
            RewardTrainConfig,
            prog="pld reward-train",
            description=(
                "pld reward-train: train a success classifier. --task NAME collects labelled episodes of a simulated "
                "task first, --data FOLDER uses recorded ones. Writes success.ckpt, metrics.json and report.html; "
                "then `pld train --reward classifier:PATH`."
            ),
            args=list(args),
            use_underscores=True,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    from pld_core.stages.reward_training import train_reward

    train_reward(config)
    return 0
