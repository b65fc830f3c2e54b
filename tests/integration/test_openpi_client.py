"""openpi's own client, unmodified and in its own environment (it needs an older numpy), talks to `pld serve`."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from other_environment import python_with

from pld_core.types import Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig
from pld_core.vla.remote.image_key import resized
from tests.contract.served import Served

SCRIPT = Path(__file__).with_name("openpi_client_script.py")
SPEC = ObservationSpec({"agentview": (64, 64, 3), "wrist": (64, 64, 3)}, proprio_dim=8)


@pytest.mark.slow
def test_openpis_own_client(tmp_path: Path) -> None:
    python = python_with("openpi-client", "openpi-client==0.1.2", "typing_extensions")  # which it does not declare
    policy = CompactVLA.create(SPEC, 7, CompactVLAConfig(width=64, grounding_width=64), seed=3)
    policy.save(tmp_path / "policy.vla")
    served = Served("--policy", f"compact:{tmp_path / 'policy.vla'}", "--keys", "libero")
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/healthz", timeout=10) as health:
        assert health.status == 200
    done = subprocess.run(
        [python, SCRIPT, str(served.port), "3"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert served.end() == 0
    told = json.loads(done.stdout)
    assert told["numpy"].startswith("1."), "the point of an environment of its own"
    assert told["metadata"]["version"] == policy.version
    assert told["metadata"]["action_horizon"] == 8
    assert told["dtype"] == "float32"
    assert told["timing"] == [["infer_ms"], ["infer_ms", "prev_total_ms"], ["infer_ms", "prev_total_ms"]]
    assert "observation/image is missing" in told["refused"]
    wanted = np.stack([chunk.actions for chunk in policy.infer(_same_observations(3))])
    wanted[..., 6] *= -1  # LIBERO closes at +1
    np.testing.assert_array_equal(np.array(told["actions"], np.float32), wanted)


def _same_observations(count: int) -> list[Observation]:
    """What the script sends, as the policy is to see it."""
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(count):
        pictures = [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(2)]
        small = [resized(picture[:, ::-1], 64, 64, "stretch") for picture in pictures]  # as libero.yaml says: mirrored
        state = rng.normal(size=8).astype(np.float32)
        seen.append(
            Observation(
                dict(zip(["agentview", "wrist"], small, strict=True)),
                state,
                "pick up the milk and place it in the basket",
            )
        )
    return seen
