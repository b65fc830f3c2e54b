"""A reward that a server gives, such as a foundation model: frames and instruction go, a probability comes.

One POST per tick, ``Content-Type: application/json`` (or ``application/msgpack``)::

    {"instruction": "...", "tick": 12, "proprio": [...], "images": {"wrist": "<PNG, base64>", ...}}
    -> {"probability": 0.93}

With msgpack the pictures are raw PNG bytes. ``tick`` counts from 1 after each reset.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import msgpack
import numpy as np

from pld_core.errors import ConfigError, ContractError
from pld_core.rewards.debounce import Debounce, Latch
from pld_core.rewards.pictures import png
from pld_core.types import Observation, TimeStep

MOST_BYTES = 1_000_000  # of an answer
RETRY_STATUS = (408, 429, 500, 502, 503, 504)


class RewardServerError(ContractError):
    """The server that gives the reward does not answer, or answers something else. The episode is void."""


@dataclass
class HttpReward:
    """1.0 at success, else 0; success: the probability reaches ``threshold`` in enough of the last ticks.

    deadline_s: for one tick, retries included; retries: after a connection that failed, a timeout or a
    status that says "later"; cameras: which are sent (empty: all). Implements interfaces.RewardModel. Raises
    ConfigError for settings that cannot work and RewardServerError for a server that does not answer.
    """

    url: str
    threshold: float = 0.5
    debounce: Debounce = field(default_factory=Debounce)
    deadline_s: float = 2.0
    retries: int = 2
    encoding: Literal["json", "msgpack"] = "json"
    cameras: tuple[str, ...] = ()

    sees_for_itself = True

    def __post_init__(self) -> None:
        _check_address(self.url)
        if not 0 <= self.threshold <= 1 or not self.deadline_s > 0 or self.retries < 0:
            raise ConfigError(
                "A reward server needs 0 <= threshold <= 1, deadline_s > 0 and retries >= 0; got "
                f"{self.threshold}, {self.deadline_s}, {self.retries}."
            )
        if self.encoding not in ("json", "msgpack"):
            raise ConfigError(f"encoding is {self.encoding!r}; valid: 'json', 'msgpack'.")
        self._latch = Latch(self.debounce)
        self._tick = 0

    def reset(self) -> None:
        self._latch.reset()
        self._tick = 0

    def clear_latch(self) -> None:
        self._latch.reset()

    def score(self, step: TimeStep) -> tuple[float, bool]:
        self._tick += 1
        positive = self.probability(step.observation) >= self.threshold
        success = self._latch.see(positive)
        return float(success), success

    def probability(self, observation: Observation) -> float:
        """What the server says of one observation."""
        body = self._body(observation)
        give_up, problem = time.monotonic() + self.deadline_s, "no time was left"
        for attempt in range(self.retries + 1):
            left = give_up - time.monotonic()
            if left <= 0:
                break
            try:
                status, answer = self._post(body, left)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return self._read(answer)
                problem = f"status {status}: {answer[:200].decode(errors='replace')}"
                if status not in RETRY_STATUS:
                    break
            time.sleep(max(0.0, min(0.05 * 2**attempt, give_up - time.monotonic())))
        raise RewardServerError(
            f"The reward server at {self.url} gave no probability within {self.deadline_s:g} s ({problem}). "
            "See that it runs and takes a POST as in pld_core/rewards/http.py, or raise deadline_s."
        )

    def _body(self, observation: Observation) -> bytes:
        missing = sorted(set(self.cameras) - set(observation.images))
        if missing:
            raise ContractError(f"No camera {missing} for the reward server; there is {sorted(observation.images)}.")
        pictures = {name: png(observation.images[name]) for name in self.cameras or sorted(observation.images)}
        message: dict[str, Any] = {
            "instruction": observation.instruction,
            "tick": self._tick,
            "proprio": np.asarray(observation.proprio, np.float64).tolist(),
        }
        if self.encoding == "msgpack":
            return msgpack.packb({**message, "images": pictures})  # type: ignore[return-value]
        texts = {name: base64.b64encode(picture).decode() for name, picture in pictures.items()}
        return json.dumps({**message, "images": texts}).encode()

    def _post(self, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with contextlib.closing(kind(str(parts.hostname), parts.port, timeout=timeout_s)) as connection:
            headers = {"Content-Type": f"application/{self.encoding}", "Accept": f"application/{self.encoding}"}
            connection.request("POST", path, body, headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read(MOST_BYTES)

    def _read(self, answer: bytes) -> float:
        try:
            found = msgpack.unpackb(answer) if self.encoding == "msgpack" else json.loads(answer)
            probability = float(found["probability"]) if isinstance(found, Mapping) else None
        except (ValueError, TypeError, KeyError, msgpack.UnpackException):
            probability = None
        if probability is None or not 0.0 <= probability <= 1.0:
            raise RewardServerError(
                f"The reward server at {self.url} answered {answer[:200]!r}; "
                'it must answer {"probability": p} with p between 0 and 1.'
            )
        return probability


def _check_address(url: str) -> None:
    if "@" in url.partition("//")[2].partition("/")[0]:
        raise ConfigError("The address of a reward server must not hold a user name or password (user:password@).")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is no number, or too large for one
        sound = False
    if not sound:
        raise ConfigError(f"{url!r} is no address of a reward server; give one like http://localhost:8000/score.")


def http_reward(url: str) -> HttpReward:
    """``http:http://host:port/path``, or simply ``http://host:port/path``."""
    return HttpReward(f"http:{url}" if url.startswith("//") else url)


def https_reward(url: str) -> HttpReward:
    return HttpReward(f"https:{url}" if url.startswith("//") else url)
