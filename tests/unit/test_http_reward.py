"""The reward over HTTP, against a real server."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image

from pld_core import bring
from pld_core.errors import ConfigError, ContractError
from pld_core.rewards.debounce import Debounce
from pld_core.rewards.http import HttpReward, RewardServerError
from pld_core.types import Observation, TimeStep

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
STEP = TimeStep(Observation({"wrist": IMAGE, "front": IMAGE[::-1]}, np.array([0.5, 2.0], np.float32), "lift it"))


class Server:
    """Keeps what it was asked; ``answer`` decides."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = lambda message: (200, json.dumps({"probability": 0.9}).encode())
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                packed = self.headers["Content-Type"] == "application/msgpack"
                outer.asked.append(msgpack.unpackb(body) if packed else json.loads(body))
                status, answer = outer.answer(outer.asked[-1])
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return None

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                return None  # a client that gave up

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/score?model=a"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def test_sends_frames_and_instruction_and_believes_the_answer(server):
    reward = HttpReward(server.url)
    assert [reward.score(STEP) for _ in range(3)] == [(0.0, False), (1.0, True), (1.0, True)]
    assert [message["tick"] for message in server.asked] == [1, 2, 3]
    message = server.asked[0]
    assert message["instruction"] == "lift it"
    assert message["proprio"] == [0.5, 2.0]
    picture = Image.open(BytesIO(base64.b64decode(message["images"]["front"])))
    np.testing.assert_array_equal(np.asarray(picture), IMAGE[::-1])


def test_msgpack_and_chosen_cameras(server):
    server.answer = lambda message: (200, msgpack.packb({"probability": 0.2}))
    reward = HttpReward(server.url, encoding="msgpack", cameras=("wrist",), debounce=Debounce(1, 1))
    assert reward.score(STEP) == (0.0, False)
    assert list(server.asked[0]["images"]) == ["wrist"]
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(server.asked[0]["images"]["wrist"]))), IMAGE)


def test_tries_again_where_that_may_help(server):
    def answer(_: dict[str, Any]) -> tuple[int, bytes]:
        return (503, b"loading") if len(server.asked) < 3 else (200, b'{"probability": 1}')

    server.answer = answer
    assert HttpReward(server.url).probability(STEP.observation) == 1.0
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "answer", "complaint", "times"),
    [
        (404, b"no such model", "404: no such model", 1),
        (500, b"out of memory", "500: out of memory", 3),
        (200, b"yes", "must answer", 1),
        (200, b'{"probability": 1.5}', "between 0 and 1", 1),
        (200, b'{"probability": null}', "must answer", 1),
        (200, b'{"success": true}', "must answer", 1),
        (200, b"[0.5]", "must answer", 1),
        (200, b'{"probability": NaN}', "must answer", 1),
    ],
)
def test_says_what_the_server_did(server, status, answer, complaint, times):
    server.answer = lambda message: (status, answer)
    with pytest.raises(RewardServerError, match=complaint):
        HttpReward(server.url).score(STEP)
    assert len(server.asked) == times


def test_keeps_the_deadline(server):
    release = threading.Event()
    server.answer = lambda message: (release.wait(5), (200, b"{}"))[1]
    began = time.monotonic()
    with pytest.raises(RewardServerError, match=r"within 0.2 s"):
        HttpReward(server.url, deadline_s=0.2).score(STEP)
    assert time.monotonic() - began < 2.0
    release.set()


def test_nobody_answers():
    with pytest.raises(RewardServerError, match="ConnectionRefusedError"):
        HttpReward("http://127.0.0.1:9", deadline_s=0.3).score(STEP)


def test_a_missing_camera_is_named(server):
    with pytest.raises(ContractError, match="top"):
        HttpReward(server.url, cameras=("top",)).score(STEP)


@pytest.mark.parametrize(
    "wrong", [{"url": "ftp://x"}, {"url": "http://"}, {"threshold": 2.0}, {"deadline_s": 0.0}, {"encoding": "xml"}]
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(ConfigError):
        HttpReward(**{"url": "http://localhost/", **wrong})


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://host:99999/x", "no address"),
        ("http://host:eighty/x", "no address"),
        ("http://[::1/x", "no address"),
        ("http://me:secret@host/x", "user name"),
        ("http://me@host:99999/x", "user name"),
    ],
)
def test_addresses_that_cannot_work(url, complaint):
    with pytest.raises(ConfigError, match=complaint) as refused:
        HttpReward(url)
    assert "secret" not in str(refused.value)


def test_verdicts_can_be_forgotten_within_an_episode(server):
    reward = HttpReward(server.url)
    assert [reward.score(STEP)[1] for _ in range(2)] == [False, True]
    reward.clear_latch()
    assert [reward.score(STEP)[1] for _ in range(2)] == [False, True]
    assert server.asked[-1]["tick"] == 4


@pytest.mark.parametrize("name", ["http://localhost:8/x", "http:http://localhost:8/x"])
def test_is_found_by_its_address(name):
    made = bring.reward_factory(name)()
    assert isinstance(made, HttpReward)
    assert made.url == "http://localhost:8/x"
    assert bring.reward_factory("https://host/x")().url == "https://host/x"  # type: ignore[attr-defined]
