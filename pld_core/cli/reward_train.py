"""``pld reward-train``: a success classifier from labelled episodes."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core.cli.common import parse_own

DESCRIPTION = """train a success classifier. --task NAME collects labelled episodes of a simulated task first, --data
FOLDER uses recorded ones. Writes success.ckpt, metrics.json and report.html; then `pld train --reward classifier:PATH`.
"""


def run(args: Sequence[str]) -> int:
    from pld_core.stages.reward_config import RewardTrainConfig

    config = parse_own(RewardTrainConfig, "reward-train", DESCRIPTION, args)
    from pld_core.stages.reward_training import train_reward

    train_reward(config)
    return 0
