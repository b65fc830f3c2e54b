"""Success judged from images: trained by ``pld reward-train``, used as ``--reward classifier:PATH``."""

from pathlib import Path

from pld_core.rewards.classifier.model import SuccessClassifier, SuccessEstimate

__all__ = ["SuccessClassifier", "SuccessEstimate", "classifier"]


def classifier(path: str) -> SuccessClassifier:
    """The classifier in the checkpoint at ``path``."""
    return SuccessClassifier.load(Path(path))
