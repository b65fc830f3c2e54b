"""OpenVLA keeps the BasePolicy contract with both of its servers, and its promises where they die, hang or lie."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from rest_server import RestServer, json_numpy, oft, openvla

from pld_core import bring
from pld_core.errors import ConfigError, ContractError, PolicyUnavailableError
from pld_core.interfaces import BasePolicy
from pld_core.types import Observation
from pld_core.vla.remote import OpenVLA
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.settings import load_settings
from tests.contract.base_policy_contract import BasePolicyContract

HANG_S = 30.0  # of servers, against deadlines of about a second
ACTION = json_numpy(np.array([0.1, -0.2, 0.3, 0.0, 0.5, -1.5, 1.0]))


def observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    images = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in ("agentview", "wrist")}
    state = rng.normal(size=8).astype(np.float32)
    return Observation(images, state, f"pick up the milk {index % 2}", {"agentview": 5, "wrist": 3})


class _Contract(BasePolicyContract):
    speaks: ClassVar[Any]
    name: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        with RestServer(type(self).speaks) as self.server:
            yield

    def make_policy(self) -> BasePolicy:
        return bring.base_policy(f"openvla:{self.name}@{self.server.url}")

    def make_observation(self, index: int) -> Observation:
        return observation(index)

    def test_wrong_image(self, policy: BasePolicy, observations: list[Observation]) -> None:
        """Any size is brought to the network's; nothing but uint8 is a picture."""
        images = {name: image[:-1] for name, image in observations[0].images.items()}
        assert policy.infer([dataclasses.replace(observations[0], images=images)])[0].actions.shape[1] == 7
        images = {name: image.astype(np.float32) for name, image in observations[0].images.items()}
        with pytest.raises(ContractError, match="uint8"):
            policy.infer([dataclasses.replace(observations[0], images=images)])

    def test_missing_camera(self, policy: BasePolicy, observations: list[Observation]) -> None:
        with pytest.raises(ContractError, match="agentview"):
            policy.infer([dataclasses.replace(observations[0], images={"wrist": observations[0].images["wrist"]})])


class TestOpenVLA(_Contract):
    speaks, name = staticmethod(openvla), "openvla"


class TestOFT(_Contract):
    speaks, name = staticmethod(oft), "openvla_oft"


def policy_at(server: RestServer, name: str = "openvla", deadline_s: float = 30.0) -> OpenVLA:
    settings = load_settings(name)
    horizon = settings.action_horizon or 0
    return OpenVLA(server.url, settings.keys, action_horizon=horizon, deadline_s=deadline_s)


def test_what_openvla_is_sent_and_what_its_action_means() -> None:
    seen = observation(0)
    with RestServer(lambda _: ACTION) as server:
        chunk = policy_at(server).infer([seen])[0]
    (request,) = server.requests
    assert sorted(request) == ["image", "instruction", "unnorm_key"]
    assert request["instruction"] == seen.instruction
    assert request["unnorm_key"] == "libero_object_no_noops"
    assert request["image"].shape == (224, 224, 3)
    middle = seen.images["agentview"][1:62, 1:62]  # 61 pixels: 90 % of the area, or nearly
    corner = request["image"][:2, -2:].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(corner, middle[0, 0], atol=12)  # left and right have changed places
    np.testing.assert_array_equal(chunk.actions, np.array([[0.1, -0.2, 0.3, 0.0, 0.5, -1.0, 1.0]], np.float32))
    assert chunk.stamp_ns == 5


def test_what_oft_is_sent_and_a_gripper_that_closes() -> None:
    seen = observation(1)
    closed = np.zeros(7)
    with RestServer(lambda _: [json_numpy(closed)] * 8) as server:
        chunk = policy_at(server, "openvla_oft").infer([seen])[0]
    (request,) = server.requests
    assert sorted(request) == ["full_image", "instruction", "state", "wrist_image"]
    np.testing.assert_array_equal(request["state"], seen.proprio)
    assert request["wrist_image"].dtype == np.uint8
    assert chunk.actions.shape == (8, 7)
    assert (chunk.actions[:, 6] == -1.0).all()


def test_an_unknown_unnorm_key_is_named() -> None:
    settings = load_settings("openvla")
    keys = dataclasses.replace(settings.keys, constants={"unnorm_key": "nobody"})
    with RestServer(openvla) as server:
        policy = OpenVLA(server.url, keys, action_horizon=1)
        with pytest.raises(PolicyServerError, match=r"'error'.* image uint8 \(224, 224, 3\).* unnorm_key 'nobody'"):
            policy.infer([observation(0)])


def test_the_version_is_that_of_the_file_or_changes_with_the_keys() -> None:
    keys = load_settings("openvla").keys
    others = dataclasses.replace(keys, constants={"unnorm_key": "bridge_orig"})
    with RestServer(openvla) as server:
        versions = {OpenVLA(server.url, k, action_horizon=1).version for k in (keys, keys, others)}
        assert len(versions) == 2
        assert OpenVLA(server.url, keys, action_horizon=1, version="milk-20k").version == "milk-20k"


def test_a_server_that_is_killed_and_started_again_is_waited_for() -> None:
    with RestServer(openvla) as server:
        policy = policy_at(server)
        before = policy.infer([observation(0)])[0]
        server.end()
        restarted = threading.Timer(0.5, server.start)
        restarted.start()
        after = policy.infer([observation(0)])[0]  # asked while nobody listens
        restarted.join()
    np.testing.assert_array_equal(before.actions, after.actions)


def test_an_answer_that_breaks_off_and_a_gateway_without_server_are_asked_again() -> None:
    faults: list[Any] = [
        lambda handler: handler.connection.close(),
        lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n[0.1, 0.2"),
        lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[0.1"),
        lambda handler: handler.send(503, "text/html", b"<html>later</html>"),
    ]

    def raw(handler: Any) -> bool:
        if faults:
            faults.pop(0)(handler)
            return True
        return False

    with RestServer(openvla, raw) as server:
        chunk = policy_at(server).infer([observation(0)])[0]
    assert chunk.actions.shape == (1, 7)
    assert not faults
    assert len(server.requests) == 1


def hang(_: Any) -> bool:
    time.sleep(HANG_S)
    return True


def dripping(head: bytes, drop: bytes) -> Any:
    def raw(handler: Any) -> bool:
        handler.wfile.write(head)
        for _ in range(int(HANG_S / 0.05)):
            handler.wfile.write(drop)
            time.sleep(0.05)
        return True

    return raw


@pytest.mark.parametrize(
    "raw",
    [
        hang,
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b" "),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b" "),
        dripping(b"HTTP/1.1 200 OK\r\nX-", b"X"),  # a head that never ends
        dripping(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_a_slow_server_has_until_the_deadline(raw: Any) -> None:
    with RestServer(openvla, raw) as server:
        policy = policy_at(server, deadline_s=0.7)
        began = time.monotonic()
        with pytest.raises(PolicyUnavailableError, match="slow or hangs"):
            policy.infer([observation(0)])
        assert 0.6 < time.monotonic() - began < HANG_S / 2
        server.raw = None
        policy._deadline_s = 30.0
        assert policy.infer([observation(0)])[0].actions.shape == (1, 7)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (json_numpy(np.zeros(6)), r"actions has 6 entries per action, action_(scale|offset) 7"),
        ([ACTION, ACTION], "answered 2 actions; its action_horizon is 1"),
        (json_numpy(np.full(7, np.nan)), "valid are finite actions"),
        ([[1, 2], [3]], "valid are finite actions"),
        ({"action": [0.0] * 7}, r"actions of the server's answer is \{'action'"),
        ("out of memory", "actions of the server's answer is 'out of memory'"),
        ({**ACTION, "dtype": "|O"}, "no actions in JSON"),
        ({**ACTION, "shape": [8]}, "no actions in JSON"),
        ({**ACTION, "__numpy__": "?"}, "no actions in JSON"),
    ],
)
def test_a_server_that_answers_nonsense(answer: Any, complaint: str) -> None:
    with RestServer(lambda _: answer) as server, pytest.raises(ContractError, match=complaint):
        policy_at(server).infer([observation(0)])


@pytest.mark.parametrize(
    ("status", "data", "complaint"),
    [
        (200, b"<html><body>It works!</body></html>", "answered '<html><body>It works!.* Is it OpenVLA's deploy.py"),
        (200, b"", "answered ''"),
        (200, b"\xff\xfe\x00" * 99, "no actions in JSON"),
        (200, b"[" * 100_000, "no actions in JSON"),
        (200, b" " * (2**22 + 1), "more than 4194304 bytes"),
        (404, b"not here", "status 404 .*'not here'"),
        (500, b"Internal Server Error", "status 500"),
        (422, b'{"detail": "dict_type"}', "status 422 .*dict_type"),
    ],
)
def test_something_else_listens_there(status: int, data: bytes, complaint: str) -> None:
    def raw(handler: Any) -> bool:
        handler.send(status, "text/html", data)
        return True

    with RestServer(openvla, raw) as server, pytest.raises(ContractError, match=complaint):
        policy_at(server).infer([observation(0)])


def test_what_speaks_no_http_and_nobody() -> None:
    keys = load_settings("openvla").keys
    with RestServer(openvla, lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n") > 0) as server:
        url, policy = server.url, policy_at(server, deadline_s=3.0)
        with pytest.raises(PolicyUnavailableError, match=r"SSH-2\.0"):
            policy.infer([observation(0)])
    with pytest.raises(PolicyUnavailableError, match="Is it running"):
        OpenVLA(url, keys, action_horizon=1, connect_s=0.3)


def test_a_request_that_nobody_reads_ends_at_the_deadline() -> None:
    keys = dataclasses.replace(load_settings("openvla").keys, images={})
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never reads
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        policy = OpenVLA(url, keys, action_horizon=1, deadline_s=0.5)
        with pytest.raises(PolicyUnavailableError, match="slow or hangs"):
            policy.infer([dataclasses.replace(observation(0), instruction="x" * 50_000_000)])


@pytest.mark.parametrize("address", ["ws://host:1", "http://", "http://host:port", "http://me:secret@host:1", "host:1"])
def test_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="http://host:port"):
        bring.base_policy(f"openvla:openvla@{address}")


def test_an_address_that_http_cannot_write() -> None:
    with pytest.raises(ConfigError, match=r"pläne' has a path that is not ASCII.* http://host/%C3%A4"):
        bring.base_policy("openvla:openvla@http://127.0.0.1:1/pläne")


def test_a_file_for_another_protocol_and_one_without_horizon(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"ws://localhost:8000.*http://host:port"):
        bring.base_policy("openvla:libero")
    path = tmp_path / "mine.yaml"
    path.write_text("keys: {images: {}, state: {}, proprio_dim: 3}\nserver: http://localhost:1\n")
    with pytest.raises(ConfigError, match="action_horizon: 1 for OpenVLA"):
        bring.base_policy(f"openvla:{path}")
