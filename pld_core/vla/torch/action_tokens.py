"""OpenVLA's action tokens (Kim et al. 2024): numbers in [-1, 1] as the last tokens of a vocabulary.

``bins`` edges lie evenly between -1 and 1, so there are ``bins - 1`` intervals; bin ``b`` (from 0) is token
``end - 1 - b``. A value of exactly 1 has a token of its own, which stands for the last interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pld_core.errors import ConfigError, ContractError


@dataclass(frozen=True)
class ActionTokens:
    """end: the first id behind the action tokens (the vocabulary's size without padding)."""

    end: int
    bins: int = 256

    def __post_init__(self) -> None:
        if self.bins < 2 or self.first < 0:
            raise ConfigError(f"{self.bins} action tokens do not fit below token {self.end}; tokens.bins is too large.")

    @property
    def first(self) -> int:
        """The smallest id of an action token; it stands for the largest value."""
        return self.end - self.bins

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Token ids, int64 like ``values``; values outside [-1, 1] go to the outermost bins."""
        if not np.isfinite(values).all():
            raise ContractError("Actions with NaN or infinity have no tokens.")
        return self.end - np.digitize(np.clip(values, -1.0, 1.0), self._edges())

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Centres of the bins, float32; ContractError for a token that is no action."""
        tokens = np.asarray(tokens)
        if ((tokens < self.first) | (tokens >= self.end)).any():
            raise ContractError(
                f"Tokens {tokens.tolist()} are not all actions, which are {self.first} to {self.end - 1}."
            )
        edges = self._edges()
        centres = (edges[:-1] + edges[1:]) / 2
        return centres[np.minimum(self.end - 1 - tokens, self.bins - 2)].astype(np.float32)

    def _edges(self) -> np.ndarray:
        return np.linspace(-1.0, 1.0, self.bins)


def vocabulary_end(text_vocabulary: int, padding: int, image_token: int | None, bins: int) -> int:
    """Where the action tokens end: at the vocabulary's end without padding, or below an image token among them.

    OpenVLA overwrites the rarest tokens of Llama 2: 32064 rows less 64 of padding. PaliGemma's image token lies
    64 ids below its last row, and must stay what it is.
    """
    end = text_vocabulary - padding
    return image_token if image_token is not None and end - bins <= image_token < end else end
