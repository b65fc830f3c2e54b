"""scripts/serve_lerobot.py: its protocol with PLD's client, and small policies of LeRobot itself behind it."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pld_core import bring
from pld_core.types import Observation
from pld_core.vla.remote import RemoteVLA
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.settings import load_settings
from pld_core.vla.remote.wire import pack, unpack

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "serve_lerobot.py"
CHILD = Path(__file__).with_name("lerobot_policy_child.py")
PATIENCE_S = 120.0
KEYS = """
connect_s: 120
keys:
  images: {observation.images.front: {camera: front, height: 64, width: 96}}
  state: {observation.state: null}
  proprio_dim: 5
  prompt: task
  action_scale: [0.1, 0.1, 0.1, 0.1]
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("torch")
    found = importlib.util.spec_from_file_location("serve_lerobot", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(KEYS)
    return path


def observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return Observation({"front": image}, rng.normal(size=5).astype(np.float32), "pick up the milk")


class Slow:
    """In place of a checkpoint: answers the state, at once or when it may."""

    metadata: Mapping[str, Any] = {"version": "slow", "action_horizon": 2}

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.computes = threading.Event()

    def answer(self, request: Mapping[str, Any], seed: int) -> np.ndarray:
        self.computes.set()
        assert self.may.wait(PATIENCE_S)
        if request["task"] == "":
            raise KeyError("no instruction")
        return np.tile(request["observation.state"][:4], (2, 1))


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def url(script: ModuleType, slow: Slow, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    running = loop.create_task(script.Server(slow).run("127.0.0.1", 0))

    def serve() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(running)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    said = ""
    while "serving" not in said:
        assert thread.is_alive()
        said += capsys.readouterr().out
    yield said.split()[-1]
    slow.may.set()
    loop.call_soon_threadsafe(running.cancel)
    thread.join()
    loop.close()


def test_a_slow_policy_blocks_nobody(url: str, slow: Slow, keys: Path) -> None:
    first, second = (bring.base_policy(f"openpi:{keys}@{url}") for _ in range(2))
    assert (first.version, first.action_horizon, first.feature_dim) == ("slow", 2, 0)
    slow.may.clear()
    slow.computes.clear()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.extend(first.infer([observation(0), observation(1)])))
    asking.start()
    assert slow.computes.wait(PATIENCE_S)
    with urllib.request.urlopen(url.replace("ws:", "http:") + "/healthz", timeout=PATIENCE_S) as health:
        assert health.status == 200
    third = bring.base_policy(f"openpi:{keys}@{url}")  # connects while the policy computes
    slow.may.set()
    asking.join()
    for index, chunk in enumerate(answers):
        wanted = np.clip(0.1 * observation(index).proprio[:4], -1, 1)
        np.testing.assert_allclose(chunk.actions, np.tile(wanted, (2, 1)), rtol=1e-6)
    for policy in (first, second, third):
        assert len(policy.infer([observation(2)])) == 1
        policy.close()


def test_an_error_is_its_text_and_the_end_of_the_connection(url: str, keys: Path) -> None:
    policy = bring.base_policy(f"openpi:{keys}@{url}")
    with pytest.raises(PolicyServerError, match="KeyError: 'no instruction'"):
        policy.infer([Observation(observation(0).images, observation(0).proprio, "")])
    assert len(policy.infer([observation(0)])) == 1
    policy.close()


def test_its_messages_are_ours(script: ModuleType) -> None:
    value = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.zeros((0, 3), np.uint8)}, "d": "text"}
    for written, read in ((pack(value), script.unpack), (script.pack(value), unpack)):
        found = read(written)
        np.testing.assert_array_equal(found["a"], value["a"])
        assert found["b"]["c"].shape == (0, 3)
        assert found["d"] == "text"
    array = {b"__ndarray__": True, b"data": b"12", b"dtype": "|O", b"shape": [1]}
    for wrong in (array, {**array, b"dtype": "<f4"}):
        with pytest.raises(ValueError, match="was sent"):
            script.unpack(pack({"a": wrong}))


def test_it_is_python_3_10_as_lerobot() -> None:
    text = SCRIPT.read_text()
    ast.parse(text, feature_version=(3, 10))
    assert "file_digest" not in text  # and a few other names are 3.11's


def test_its_version_changes_with_every_file(script: ModuleType, tmp_path: Path) -> None:
    found = {script.content(tmp_path)}
    for name, data in (("a.json", b""), ("a.json", b"1"), ("w.safetensors", b"x" * (2**22 + 1)), ("b.json", b"1")):
        (tmp_path / name).write_bytes(data)
        found.add(script.content(tmp_path))
    assert len(found) == 5
    (tmp_path / "README.md").write_text("nothing that it computes with")
    assert script.content(tmp_path) in found


def test_what_a_request_must_have(script: ModuleType) -> None:
    inputs = dict.fromkeys(("observation.state", "observation.images.top", "observation.images.empty_camera_0"))
    act = SimpleNamespace(input_features=inputs)
    assert script.needed(act) == set(inputs)
    smolvla = SimpleNamespace(input_features=inputs, empty_cameras=1, tokenizer_max_length=48)
    assert script.needed(smolvla) == {"observation.state", "observation.images.top", "task"}


def test_the_keys_that_ship_take_horizon_and_version_from_the_server() -> None:
    settings = load_settings("lerobot")
    assert settings.action_horizon is None
    assert settings.version is None


# -- LeRobot itself ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lerobot() -> list[str]:
    """The command that runs the child in LeRobot's environment."""
    home = ROOT / ".venv-lerobot"
    if not (home / ".installed").exists() or not (home / "policies").exists():
        pytest.skip("LeRobot's own policies are not installed: run `make lerobot` (1.9 GB) before.")
    return ["env", f"PYTHONPATH={home / 'policies'}", str(home / "bin" / "python"), str(CHILD)]


class Child:
    """The script with a checkpoint, at a free port."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [*command, "serve", str(SCRIPT), str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "HF_HOME": str(folder / "hf")},
        )  # fmt: skip
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if line.startswith("serving"):
                break
        assert lines, "it said nothing"
        assert lines[-1].startswith("serving"), "".join(lines)
        self.url = lines[-1].split()[-1]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(PATIENCE_S) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_a_policy_of_lerobot(lerobot: list[str], keys: Path, tmp_path: Path, kind: str) -> None:
    seen, folder = observation(0), tmp_path / kind
    request = load_settings(str(keys)).keys.request(seen)
    message = np.frombuffer(pack(request), np.uint8)
    np.savez(tmp_path / "request.npz", **{k: v for k, v in request.items() if k != "task"}, message=message)
    done = subprocess.run(
        [*lerobot, "make", kind, str(folder), str(tmp_path / "request.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Child(lerobot, folder) as served:
        policy = bring.base_policy(f"openpi:{keys}@{served.url}")
        assert isinstance(policy, RemoteVLA)
        assert policy.version.startswith(f"{kind}-")
        assert policy.action_horizon == 4
        (first,), (other,), (again,) = (policy.infer([o]) for o in (seen, observation(1), seen))
        wanted = np.clip(0.1 * np.load(folder / "answer.npy"), -1, 1)
        assert 0.0 < np.abs(wanted).mean() < 1.0
        np.testing.assert_allclose(first.actions, wanted, atol=1e-5)
        np.testing.assert_array_equal(first.actions, again.actions)
        assert not np.array_equal(first.actions, other.actions)
        version = policy.version
        policy.close()
        small = tmp_path / "small.yaml"
        small.write_text(KEYS.replace("64, width: 96", "32, width: 48"))
        policy = bring.base_policy(f"openpi:{small}@{served.url}")
        with pytest.raises(PolicyServerError, match=r"observation.images.front is uint8 \(32, 48, 3\); valid is uint8"):
            policy.infer([seen])
        small.write_text(KEYS.replace("observation.state", "observation.joints"))
        policy = bring.base_policy(f"openpi:{small}@{served.url}")
        with pytest.raises(PolicyServerError, match=r"observation.joints: not among the policy's inputs"):
            policy.infer([seen])
        small.write_text(KEYS.replace("{observation.state: null}", "{}"))
        policy = bring.base_policy(f"openpi:{small}@{served.url}")
        with pytest.raises(PolicyServerError, match=r"observation.state: missing in the request; it has \['obs.*task'"):
            policy.infer([seen])
        policy.close()
    with Child(lerobot, folder) as served:
        policy = bring.base_policy(f"openpi:{keys}@{served.url}")
        assert policy.version == version
        policy.close()
