"""Every reward model passes the same suite."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import toy_classifier
from reward_model_contract import RewardModelContract

from pld_core.rewards import BinaryReward
from pld_core.rewards.debounce import Debounce
from pld_core.rewards.http import HttpReward
from pld_core.rewards.predicate import Predicate
from pld_core.rewards.staged import BothReward, PredicateReward, Stage, StagedReward
from pld_core.types import Observation, TimeStep

NAMES = ("x_m",)


def at(x: float) -> TimeStep:
    return TimeStep(Observation({}, np.array([x], np.float32)))


class TestBinary(RewardModelContract):
    sees_for_itself = False

    def make_reward(self) -> BinaryReward:
        return BinaryReward()

    def failure(self) -> TimeStep:
        return at(0.0)

    def success(self) -> TimeStep:
        return TimeStep(at(0.0).observation, 1.0, terminated=True, success=True)


class TestPredicate(RewardModelContract):
    def make_reward(self) -> Any:
        return PredicateReward(Predicate.parse("x_m > 0.5", NAMES))

    def failure(self) -> TimeStep:
        return at(0.1)

    def success(self) -> TimeStep:
        return at(0.9)


class TestDebouncedPredicate(TestPredicate):
    ticks_to_success = 3

    def make_reward(self) -> Any:
        return PredicateReward(Predicate.parse("x_m > 0.5", NAMES), Debounce(3, 4))


class TestStaged(TestPredicate):
    ticks_to_success = 3

    def make_reward(self) -> Any:
        return StagedReward(
            [Stage(name, PredicateReward(Predicate.parse("x_m > 0.5", NAMES))) for name in ("one", "two", "three")]
        )


class TestBoth(TestPredicate):
    def make_reward(self) -> Any:
        return BothReward(super().make_reward(), Predicate.parse("x_m < 2", NAMES))


class TestClassifier(RewardModelContract):
    ticks_to_success = 2

    def make_reward(self) -> Any:
        return toy_classifier.classifier()

    def failure(self) -> TimeStep:
        return toy_classifier.step(bright=False)

    def success(self) -> TimeStep:
        return toy_classifier.step(bright=True)


class _Bright(BaseHTTPRequestHandler):
    """Says success for bright pictures."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        from io import BytesIO

        from PIL import Image

        image = np.asarray(Image.open(BytesIO(base64.b64decode(message["images"]["top"]))))
        body = json.dumps({"probability": float(image.max() > 200)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return None


class TestHttp(TestClassifier):
    @pytest.fixture(autouse=True)
    def _server(self) -> Any:
        with ThreadingHTTPServer(("127.0.0.1", 0), _Bright) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}/"
            yield
            server.shutdown()
            thread.join()

    def make_reward(self) -> Any:
        return HttpReward(self.url)
