"""Instructions as hashed words: no vocabulary file, any sentence is valid.

Words and pairs of neighbouring words are hashed into a fixed number of buckets. The pairs keep
word order, so that "peg into socket" differs from "socket into peg" although embeddings are averaged.
"""

from __future__ import annotations

import itertools
import re
import zlib

import numpy as np

MAX_TOKENS = 32
PADDING = 0  # bucket 0 is never hashed into


def tokenise(instruction: str, buckets: int) -> np.ndarray:
    """Token ids int32 ``[MAX_TOKENS]``: words, then pairs, then padding. Longer sentences are cut."""
    words = re.findall(r"\w+", instruction.lower())
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    ids = [1 + zlib.crc32(token.encode()) % (buckets - 1) for token in (*words, *pairs)][:MAX_TOKENS]
    return np.array(ids + [PADDING] * (MAX_TOKENS - len(ids)), np.int32)
