"""`pld serve` as a function: makes the backend, serves until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pld_core import bring
from pld_core.errors import CheckpointError, ConfigError
from pld_core.serve.backends import Backend, PolicyBackend, SpecialistBackend, specialist_version
from pld_core.serve.server import PolicyServer
from pld_core.vla.remote.settings import load_keys

if TYPE_CHECKING:
    from pld_core.cli.serve import ServeConfig
    from pld_core.stages.finished_run import FinishedRun

SPECIALIST_LANES = 16  # clients at once; each has the base's plan of its own


def serve(config: ServeConfig) -> None:
    """Returns after SIGINT or SIGTERM."""
    keys, served = load_keys(config.keys), backend(config)
    keys.check(served.cameras)
    server = PolicyServer(served, keys, config.most)
    asyncio.run(_until_signal(server, config.host, config.port))


def backend(config: ServeConfig) -> Backend:
    """Raises CheckpointError where the run has not come so far."""
    if config.run is None:
        return PolicyBackend(bring.base_policy(config.policy))
    folder = Path(config.run).resolve()
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{config.run} is no run: it has no config.yaml. Give a folder under runs/.")
    from pld_core.stages.finished_run import FinishedRun  # a policy that is no run's is served beside an old JAX too

    run = FinishedRun(folder)
    if config.part == "specialist":
        return _specialist(run)
    return PolicyBackend(run.policy if config.part == "base" else run.distilled_policy())


def _specialist(run: FinishedRun) -> SpecialistBackend:
    if not run.specialist_path.exists():
        raise CheckpointError(f"{run.specialist_path} does not exist: the run has not learned yet.")
    version = specialist_version(run.policy.version, run.specialist_path.read_bytes())
    cameras = {name: (size[0], size[1]) for name, size in run.environment.observation_spec.cameras.items()}
    controller, xi = run.controller(SPECIALIST_LANES), run.config.learn.xi_max
    return SpecialistBackend(controller, run.specialist(), xi, version, SPECIALIST_LANES, cameras)


async def _until_signal(server: PolicyServer, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    started: asyncio.Future[int] = loop.create_future()
    serving = asyncio.create_task(server.run(host, port, started))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
    if started.done():
        print(f"serving version {server.version} at ws://{host}:{started.result()}", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
