"""RemoteVLA keeps the BasePolicy contract, and its promises where servers die, hang, lie or change."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import PATIENCE_S, Served
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection, serve

from pld_core import bring
from pld_core.errors import ConfigError, ContractError, PolicyUnavailableError
from pld_core.types import Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig
from pld_core.vla.remote import RemoteVLA
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.key_map import OwnKeys
from pld_core.vla.remote.wire import pack, unpack
from tests.contract.base_policy_contract import BasePolicyContract

SPEC = ObservationSpec({"wrist": (32, 32, 3), "front": (64, 48, 3)}, proprio_dim=9)


def observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    images = {n: rng.integers(0, 256, size, dtype=np.uint8) for n, size in SPEC.cameras.items()}
    return Observation(images, rng.normal(size=SPEC.proprio_dim).astype(np.float32), f"peg {index % 2}", {"front": 5})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "policy.vla"
    CompactVLA.create(SPEC, 7, CompactVLAConfig(width=64, grounding_width=64), seed=3).save(path)
    return path


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Served]:
    with Served("--policy", f"compact:{checkpoint}") as served:
        yield served
        assert served.end() == 0


class TestContract(BasePolicyContract):
    @pytest.fixture(autouse=True)
    def _served(self, server: Served) -> Iterator[None]:
        self.url = server.url
        self.made: list[RemoteVLA] = []
        yield
        for policy in self.made:
            policy.close()

    def make_policy(self) -> RemoteVLA:
        self.made.append(RemoteVLA(self.url))
        return self.made[-1]

    def make_observation(self, index: int) -> Observation:
        return observation(index)


def test_its_chunks_are_those_of_the_policy_that_is_served(server: Served, checkpoint: Path) -> None:
    here, there = CompactVLA.load(checkpoint), bring.base_policy(server.url)
    assert (there.version, there.action_horizon, there.feature_dim) == (
        here.version, here.action_horizon, here.feature_dim,
    )  # fmt: skip
    seen = [observation(index) for index in range(5)]
    for ours, theirs in zip(here.infer(seen), there.infer(seen), strict=True):
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(ours.features, theirs.features)
        assert theirs.stamp_ns == 5
    assert there.times.summary()["total_p50_ms"] >= there.times.summary()["server_p50_ms"] > 0
    there.close()


def test_an_error_ends_the_connection_and_not_the_policy(server: Served) -> None:
    policy = RemoteVLA(server.url)
    wrong = Observation({"wrist": observation(0).images["wrist"]}, observation(0).proprio)
    for _ in range(2):
        with pytest.raises(PolicyServerError, match=r"images//front is missing; there is ..wrist"):
            policy.infer([observation(0), wrong])
        assert len(policy.infer([observation(0), observation(1)])) == 2
    policy.close()


def test_a_server_that_is_killed_and_started_again_is_waited_for(checkpoint: Path) -> None:
    with Served("--policy", f"compact:{checkpoint}") as served:
        policy = RemoteVLA(served.url, deadline_s=PATIENCE_S)
        before = policy.infer([observation(0)])[0]
        served.kill()
        restarted = threading.Thread(target=served.start, daemon=True)
        restarted.start()
        after = policy.infer([observation(0)])[0]  # asked while nobody listens
        restarted.join()
        np.testing.assert_array_equal(before.actions, after.actions)
        policy.close()


def test_a_server_that_comes_back_with_another_policy_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.vla"
    CompactVLA.create(SPEC, 7, CompactVLAConfig(width=64, grounding_width=64), seed=4).save(other)
    with Served("--policy", f"compact:{checkpoint}") as served:
        policy = RemoteVLA(served.url, deadline_s=PATIENCE_S)
        served.kill()
        with (
            Served("--policy", f"compact:{other}", port=served.port),
            pytest.raises(PolicyServerError, match=f"before it was {policy.version}"),
        ):
            policy.infer([observation(0)])
        policy.close()


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PolicyUnavailableError, match="Is it running"):
        RemoteVLA(url, connect_s=0.3)


@pytest.mark.parametrize("address", ["ws://", "ws:nonsense", "ws://host:port"])
def test_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="ws://host:port"):
        bring.base_policy(address)


# -- servers of others, which may do anything ------------------------------------------------------

Handler = Callable[[ServerConnection], None]
METADATA = {"action_horizon": 2, "version": "v"}


@pytest.fixture
def speaking() -> Iterator[Callable[[Handler], str]]:
    """A server that does just what a function does with each connection."""
    running: list[Any] = []

    def start(handler: Handler) -> str:
        server = serve(handler, "127.0.0.1", 0)
        running.append((server, threading.Thread(target=server.serve_forever)))
        running[-1][1].start()
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()


def test_after_any_exception_nobody_gets_an_older_answer(speaking: Callable[[Handler], str]) -> None:
    def handler(client: ServerConnection) -> None:
        client.send(pack(METADATA))
        for data in client:
            client.send(pack({"actions": np.tile(unpack(data)["state"][:1], (2, 7)) / 10}))

    class Interrupting(OwnKeys):
        interrupts = True

        def actions(self, answer: Mapping[str, Any]) -> np.ndarray:
            if self.interrupts:
                self.interrupts = False
                raise KeyboardInterrupt
            return super().actions(answer)

    policy = RemoteVLA(speaking(handler), Interrupting())
    with pytest.raises(KeyboardInterrupt):
        policy.infer([observation(0), observation(1)])
    seen = [observation(2), observation(3)]
    for given, chunk in zip(seen, policy.infer(seen), strict=True):
        assert chunk.actions[0, 0] == pytest.approx(np.float32(given.proprio[0]) / 10)
    policy.close()


def test_a_request_that_nobody_reads_ends_at_the_deadline() -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet_and_sleep, args=(listener, over), daemon=True)
        thread.start()
        policy = RemoteVLA(f"ws://127.0.0.1:{listener.getsockname()[1]}", deadline_s=0.5)
        larger_than_any_buffer = {"front": np.zeros((4000, 4000, 3), np.uint8)}
        with pytest.raises(PolicyUnavailableError):
            policy.infer([Observation(larger_than_any_buffer, np.zeros(9, np.float32))])
        over.set()
        policy.close()
        thread.join()


def greet_and_sleep(listener: socket.socket, over: threading.Event) -> None:
    """A server that is frozen after its metadata."""
    connection, _ = listener.accept()
    with connection:
        protocol = ServerProtocol()
        protocol.receive_data(connection.recv(65536))
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))
        protocol.send_binary(pack(METADATA))
        for part in protocol.data_to_send():
            connection.sendall(part)
        over.wait(PATIENCE_S)


def test_a_specialist_is_no_base_policy(speaking: Callable[[Handler], str]) -> None:
    with pytest.raises(ConfigError, match="serves a specialist"):
        RemoteVLA(speaking(lambda client: client.send(pack({**METADATA, "stateful": True}))))


def test_a_server_that_breaks_off_each_time_is_asked_with_pauses(speaking: Callable[[Handler], str]) -> None:
    connections: list[float] = []

    def handler(client: ServerConnection) -> None:
        connections.append(time.monotonic())
        client.send(pack(METADATA))
        client.recv()
        client.close_socket()

    policy = RemoteVLA(speaking(handler), deadline_s=1.0)
    with pytest.raises(PolicyUnavailableError, match="No policy server answers"):
        policy.infer([observation(0)])
    assert len(connections) < 10
    policy.close()


def answering(answer: Any) -> Handler:
    def handler(client: ServerConnection) -> None:
        client.send(pack(METADATA))
        for _ in client:
            client.send(answer if isinstance(answer, (str, bytes)) else pack(answer))

    return handler


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"actions": np.zeros((3, 7), np.float32)}, "3 actions; its action_horizon is 2"),
        ({"actions": np.full((2, 7), np.nan, np.float32)}, "actions of the server's answer"),
        ({"actions": [[1, 2], [3]]}, "actions of the server's answer"),
        ({"actions": np.full((2, 7), 1e300)}, "actions of the server's answer"),
        ({"actions": {b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}}, "is not msgpack"),
        ({"actions": "none"}, "actions of the server's answer is 'none'"),
        ({"action": np.zeros((2, 7), np.float32)}, r"actions is missing; there is \['action'\]"),
        ([1, 2], "sent list"),
        (b"\xc1 nonsense", "is not msgpack"),
        ({"actions": {b"__ndarray__": True, b"data": b"12", b"dtype": "|O", b"shape": [1]}}, "valid are numbers"),
        ({"actions": {b"__ndarray__": True, b"data": b"12", b"dtype": "<f4", b"shape": [2, 7]}}, "not its size"),
        ("Traceback:\n  File ...\nKeyError: 'observation/image'", "with an error: KeyError: 'observation/image'"),
        ("", r"with an error: \(empty\)"),
    ],
)
def test_a_server_that_speaks_nonsense(speaking: Callable[[Handler], str], answer: Any, complaint: str) -> None:
    policy = RemoteVLA(speaking(answering(answer)))
    with pytest.raises(ContractError, match=complaint):
        policy.infer([observation(0)])
    policy.close()


@pytest.mark.parametrize(
    ("first", "error", "complaint"),
    [
        ("hello", ContractError, "instead of metadata it sent: hello"),
        (pack([1]), ContractError, "sent list"),
        (pack({"version": "v"}), ConfigError, "does not say its action_horizon"),
        (pack({**METADATA, "action_horizon": "two"}), ConfigError, "action_horizon of .* is 'two'"),
    ],
)
def test_a_server_with_wrong_metadata(
    speaking: Callable[[Handler], str], first: Any, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        RemoteVLA(speaking(lambda client: client.send(first)), connect_s=1.0)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(speaking: Callable[[Handler], str]) -> None:
    first = threading.Event()
    late = threading.Event()

    def handler(client: ServerConnection) -> None:
        client.send(pack(METADATA))
        for data in client:
            state = unpack(data)["state"]
            if not first.is_set():
                first.set()
                late.wait(60.0)
            client.send(pack({"actions": np.tile(state[:1], (2, 7)) / 10}))

    policy = RemoteVLA(speaking(handler), deadline_s=0.5)
    with pytest.raises(PolicyUnavailableError, match="not answered in time"):
        policy.infer([observation(0)])
    late.set()
    policy._deadline_s = 60.0
    chunk = policy.infer([observation(1)])[0]
    assert chunk.actions[0, 0] == pytest.approx(np.clip(observation(1).proprio[0] / 10, -1, 1))
    policy.close()


def test_a_connection_that_breaks_is_made_again(speaking: Callable[[Handler], str]) -> None:
    connections: list[float] = []

    def handler(client: ServerConnection) -> None:
        connections.append(time.monotonic())
        client.send(pack(METADATA))
        for data in client:
            if len(connections) < 4:
                client.close_socket()
                return
            assert unpack(data)["prompt"] == "peg 0"
            client.send(pack({"actions": np.zeros((2, 7), np.float32)}))

    policy = RemoteVLA(speaking(handler))
    assert policy.infer([observation(0)])[0].actions.shape == (2, 7)
    assert len(connections) == 4
    policy.close()
