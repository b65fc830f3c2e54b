"""`pld serve` under load: requests per second and their latency at 1, 4 and 16 clients. The last line is JSON.

    python benchmarks/policy_server.py --seconds 10

Server and clients are two processes of this machine. The policy is the shipped CompactVLA with two cameras of 64
pixels; every client asks as soon as it has its answer. ``in_process_ms_p50`` is the same policy without a server,
``through_remote_vla_ms_p50`` the way of a training run: one observation by RemoteVLA.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from websockets.asyncio.client import connect

from pld_core import bring
from pld_core.types import Observation
from pld_core.vla.remote import RemoteVLA
from pld_core.vla.remote.key_map import OwnKeys
from pld_core.vla.remote.wire import pack

CLIENTS = (1, 4, 16)
WARM_UP = 3  # requests of each client that are not counted


def observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    images = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in ("wrist", "front")}
    return Observation(images, rng.normal(size=13).astype(np.float32), "insert the peg into the socket")


@contextlib.contextmanager
def serving(policy: str = "compact") -> Iterator[str]:
    """Yields the address of `pld serve` with this policy."""
    command = [sys.executable, "-m", "pld_core.cli.main", "serve", "--policy", policy, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(" at ")[1].strip()
        finally:
            process.terminate()


async def client(url: str, index: int, seconds: float) -> list[float]:
    """Milliseconds of each request."""
    request, times = pack(OwnKeys().request(observation(index))), []
    async with connect(url, compression=None, max_size=None, proxy=None) as socket:
        await socket.recv()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) <= WARM_UP:
            began = time.perf_counter()
            await socket.send(request)
            assert isinstance(await socket.recv(), bytes), "an error"
            times.append(1e3 * (time.perf_counter() - began))
    return times[WARM_UP:]


async def load(url: str, clients: int, seconds: float) -> dict[str, float]:
    began = time.perf_counter()
    times = np.concatenate(await asyncio.gather(*(client(url, index, seconds) for index in range(clients))))
    rate = (len(times) + WARM_UP * clients) / (time.perf_counter() - began)
    p50, p99 = np.percentile(times, [50, 99])
    return {"requests_per_s": round(rate, 1), "ms_p50": round(float(p50), 2), "ms_p99": round(float(p99), 2)}


def alone(infer: Callable[[list[Observation]], object], seconds: float) -> float:
    """Median milliseconds of one observation at a time."""
    seen, times = [observation(0)], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) <= WARM_UP:
        began = time.perf_counter()
        infer(seen)
        times.append(1e3 * (time.perf_counter() - began))
    return round(float(np.median(times[WARM_UP:])), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput and latency of `pld serve`.")
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of clients")
    options = parser.parse_args()
    seconds = 0.1 if options.quick else options.seconds
    report: dict[str, float] = {"in_process_ms_p50": alone(bring.base_policy("compact").infer, seconds)}
    with serving() as url:
        policy = RemoteVLA(url)
        report["through_remote_vla_ms_p50"] = alone(policy.infer, seconds)
        policy.close()
        for clients in CLIENTS:
            found = asyncio.run(load(url, clients, seconds))
            report |= {f"{name}_{clients}_clients": value for name, value in found.items()}
    if not options.json:
        for name, value in report.items():
            print(name, value)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
