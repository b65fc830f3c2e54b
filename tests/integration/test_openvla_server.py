"""OpenVLA's client against the web framework and the array package that its servers are made of, unmodified."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from other_environment import python_with

from pld_core.types import Observation
from pld_core.vla.remote import OpenVLA
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.settings import load_settings

SCRIPT = Path(__file__).with_name("openvla_server_script.py")
PATIENCE_S = 120.0


@contextmanager
def serving(chunk: int) -> Iterator[str]:
    python = python_with("openvla-rest", "fastapi==0.115.12", "uvicorn==0.34.0", "json-numpy==2.1.1", "numpy>=2,<3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([python, SCRIPT, str(port), str(chunk)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def observation(value: int) -> Observation:
    images = {name: np.full((64, 64, 3), value, np.uint8) for name in ("agentview", "wrist")}
    return Observation(images, np.full(8, 0.02, np.float32), "pick up the milk")


@pytest.mark.slow
def test_one_action_of_openvla() -> None:
    settings = load_settings("openvla")
    with serving(0) as url:
        policy = OpenVLA(url, settings.keys, action_horizon=1, connect_s=PATIENCE_S)
        chunks = policy.infer([observation(0), observation(51)])
        for mean, chunk in zip((0.0, 0.2), chunks, strict=True):
            np.testing.assert_allclose(chunk.actions, [[0.16, *5 * [mean], 2 * mean - 1]], atol=1e-6)
        wrong = dataclasses.replace(settings.keys, constants={"unnorm_key": "fractal"})
        with pytest.raises(PolicyServerError, match="'fractal'"):
            OpenVLA(url, wrong, action_horizon=1).infer([observation(0)])
        with pytest.raises(PolicyServerError, match="status 404"):
            OpenVLA(f"{url}/action", settings.keys, action_horizon=1).infer([observation(0)])


@pytest.mark.slow
def test_a_chunk_of_oft() -> None:
    with serving(8) as url:
        policy = OpenVLA(url, load_settings("openvla_oft").keys, action_horizon=8, connect_s=PATIENCE_S)
        actions = policy.infer([observation(51)])[0].actions
    assert actions.shape == (8, 7)
    np.testing.assert_allclose(actions[:, 0], 0.16 + 0.01 * np.arange(8), atol=1e-6)
    np.testing.assert_allclose(actions[:, 6], 2 * (0.2 + 0.01 * np.arange(8)) - 1, atol=1e-6)
