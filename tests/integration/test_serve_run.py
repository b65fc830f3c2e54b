"""`pld serve --run RUN --part ...` as a process: the actions of the run's policies in this one, to the last bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from pld_core.cli.main import EXIT_ERROR
from pld_core.errors import ConfigError
from pld_core.stages.finished_run import FinishedRun
from pld_core.types import EpisodeSpec, Observation
from pld_core.vla.remote import RemoteVLA
from pld_core.vla.remote.key_map import OwnKeys
from pld_core.vla.remote.wire import pack, unpack
from pld_sim.point_reach import PointReach
from tests.contract.served import Served

pytestmark = pytest.mark.slow


def seen(count: int = 5) -> list[Observation]:
    """Starts of episodes."""
    environment = PointReach()
    return [environment.reset(seed).observation for seed in range(count)]


@pytest.mark.parametrize("part", ["base", "distilled"])
def test_a_served_policy_answers_as_in_process(tiny: Path, part: str) -> None:
    run = FinishedRun(tiny)
    policy = run.policy if part == "base" else run.distilled_policy()
    with Served("--run", str(tiny), "--part", part) as served:
        remote = RemoteVLA(served.url)
        assert (remote.version, remote.action_horizon) == (policy.version, policy.action_horizon)
        assert remote.feature_dim == policy.feature_dim
        for theirs, ours in zip(remote.infer(seen()), policy.infer(seen()), strict=True):
            np.testing.assert_array_equal(theirs.actions, ours.actions)
            np.testing.assert_array_equal(theirs.features, ours.features)
        remote.close()
        assert served.end() == 0


def test_vla_star_is_what_a_run_serves_unasked(tiny: Path) -> None:
    run = FinishedRun(tiny)
    assert run.distilled_policy().version != run.policy.version
    with Served("--run", str(tiny)) as served:
        assert f"version {run.distilled_policy().version} " in served.lines[-1]


class Client:
    """Asks a specialist, which openpi's protocol knows nothing of but `reset`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.metadata: Any = unpack(connection.recv())

    def ask(self, observation: Observation, **extra: bool) -> np.ndarray:
        self._connection.send(pack({**OwnKeys().request(observation), **extra}))
        return unpack(self._connection.recv())["actions"]


class Local:
    """The same tick in this process."""

    def __init__(self, run: FinishedRun) -> None:
        self._controller, self._actor = run.controller(16), run.specialist()
        self._spec = EpisodeSpec("served", 0, "evaluate", t_base=0, xi=run.config.learn.xi_max)

    def begin(self) -> None:
        self._controller.reset(3, self._spec)

    def ask(self, observation: Observation) -> np.ndarray:
        return self._controller.tick([3], [observation], self._actor)[0].action[None]


def begun(local: Local) -> Local:
    local.begin()
    return local


def test_a_served_specialist_ticks_as_a_runner_would(tiny: Path) -> None:
    """Two clients at once, each with a lane of its own; and not a base policy, which would be asked as it pleases."""
    run = FinishedRun(tiny)
    first, second, third = seen(3)
    with Served("--run", str(tiny), "--part", "specialist") as served:
        with pytest.raises(ConfigError, match="serves a specialist"):
            RemoteVLA(served.url)
        with connect(served.url, proxy=None) as one, connect(served.url, proxy=None) as other:
            client, neighbour = Client(one), Client(other)
            assert client.metadata["action_horizon"] == 1
            assert client.metadata["version"] not in (run.policy.version, run.distilled_policy().version)
            local = begun(Local(run))
            answers = [client.ask(seen) for seen in (first, second)]
            np.testing.assert_array_equal(neighbour.ask(third), begun(Local(run)).ask(third))
            answers += [client.ask(third), client.ask(first, reset=True), client.ask(second)]
            wanted = [local.ask(seen) for seen in (first, second, third)]
            local.begin()
            wanted += [local.ask(first), local.ask(second)]
            np.testing.assert_array_equal(answers, wanted)
        assert served.end() == 0
    base = run.policy.infer([first])[0].actions[0]
    assert not np.array_equal(answers[0][0], base), "the residual has learnt something"


def test_reset_drops_the_plan_that_a_specialist_would_follow(tiny: Path, tmp_path: Path) -> None:
    """A run whose base plans every third tick: without `reset` the old plan serves on, with it a new one is made."""
    folder = replanning(tiny, tmp_path, every=3)
    run = FinishedRun(folder)
    first, second, _ = seen(3)
    with Served("--run", str(folder), "--part", "specialist") as served, connect(served.url, proxy=None) as connection:
        client, local = Client(connection), begun(Local(run))
        np.testing.assert_array_equal(client.ask(first), local.ask(first))
        followed = local.ask(second)
        np.testing.assert_array_equal(client.ask(second), followed)
        renewed = begun(Local(run)).ask(second)
        assert not np.array_equal(followed, renewed)
        np.testing.assert_array_equal(client.ask(second, reset=True), renewed)


def replanning(tiny: Path, folder: Path, every: int) -> Path:
    """A copy of the run in which a chunk serves more ticks; its residual is a fresh one of that state's size."""
    from pld_core.checkpoint import save_checkpoint
    from pld_core.rl.state import ActorParams

    copy = Path(shutil.copytree(tiny, folder / "run"))
    config = copy / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert "replan_every: 1\n" in text
    config.write_text(text.replace("replan_every: 1\n", f"replan_every: {every}\n"), encoding="utf-8")
    run = FinishedRun(copy)
    params: ActorParams = run.learner.actor_params(run.learner.init(seed=0))
    arrays = {"actor": params.actor, "encoder": params.encoder, "normalizer": params.normalizer}
    save_checkpoint(run.specialist_path, arrays, {"policy_version": run.policy.version, "xi": run.config.learn.xi_max})
    return copy


@pytest.mark.parametrize(
    ("part", "missing", "message"),
    [
        ("distilled", "distilled.vla", "the run has distilled nothing yet"),
        ("specialist", "specialist.ckpt", "the run has not learned yet"),
        ("distilled", "", "is no run: it has no config.yaml"),
    ],
)
def test_a_part_that_is_not_there(tiny: Path, tmp_path: Path, part: str, missing: str, message: str) -> None:
    """A run that was ended early, or a folder that never was one: said at once, in a sentence, with a status."""
    folder = tmp_path / "run"
    if missing:
        unfinished = shutil.ignore_patterns(missing, "eval.json", "report.html", "distill.json")
        shutil.copytree(tiny, folder, ignore=unfinished)
    command = [sys.executable, "-m", "pld_core.cli.main", "serve", "--run", str(folder), "--part", part, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == EXIT_ERROR
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_an_unfinished_run_has_is_served(tiny: Path, tmp_path: Path) -> None:
    """The base of a run that was ended while it learned."""
    left_out = shutil.ignore_patterns("distilled.vla", "specialist.ckpt", "probe", "eval.json", "learn.json")
    folder = shutil.copytree(tiny, tmp_path / "run", ignore=left_out)
    with Served("--run", str(folder), "--part", "base") as served:
        assert f"version {FinishedRun(tiny).policy.version} " in served.lines[-1]
