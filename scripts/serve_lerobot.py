"""Serves a policy of LeRobot (SmolVLA, ACT, Diffusion, pi0, ...) over openpi's websocket protocol.

    python serve_lerobot.py PATH_OR_ID [--device cuda] [--host 127.0.0.1] [--port 8000]

For LeRobot's own environment (0.4 or newer, and `pip install websockets msgpack`); nothing of PLD is needed there: copy
this file. PLD's side is ``--policy openpi:lerobot@ws://host:port``; docs/serving.md says how its keys are written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http
import math
import os
import re
import sys
import time
import traceback
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

TASK = "task"  # the instruction, under the name that LeRobot has for it
MAX_BYTES = 2**28  # of one message
_PIECE = 2**22  # of a file that is read
_DTYPE = re.compile(r"[<>|][biuf]\d{1,2}")


class Policy:
    """A checkpoint with its processors. Each answer is that of a fresh episode: policies that look at several
    observations see the present one so many times.

    folder: what LeRobot has saved, a path or an id of the Hub.
    """

    def __init__(self, folder: str, device: str | None = None) -> None:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        path = local(folder)
        config = PreTrainedConfig.from_pretrained(path)
        if getattr(config, "use_peft", False):
            raise SystemExit(f"{folder} is an adapter. Merge it into its base first (peft's merge_and_unload).")
        config.device = device or config.device
        self._device = torch.device(config.device)
        self._policy = get_policy_class(config.type).from_pretrained(path, config=config)
        there = {"device_processor": {"device": config.device}}
        self._before, self._after = make_pre_post_processors(config, str(path), preprocessor_overrides=there)
        self._amp = bool(config.use_amp) and self._device.type == "cuda"
        self._inputs = {name: tuple(feature.shape) for name, feature in config.input_features.items()}
        self._needed = needed(config)
        self._pictures = {name for name, feature in config.input_features.items() if feature.type.name == "VISUAL"}
        self.horizon = getattr(config, "n_action_steps", 1)
        self.metadata = {
            "version": f"{config.type}-{content(path)}",
            "action_horizon": self.horizon,
            "policy": config.type,
            "inputs": {name: list(shape) for name, shape in self._inputs.items()},
        }

    def answer(self, request: Mapping[str, Any], seed: int) -> np.ndarray:
        """Actions float32 ``[H, A]``; noise that the policy starts from is a function of ``seed``."""
        torch.manual_seed(seed)
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self._amp):
            for part in (self._before, self._policy, self._after):
                part.reset()
            batch = self._before(self._batch(request))
            # The first call computes the chunk, the others take their actions from the policy's queue.
            steps = [self._after(self._policy.select_action(dict(batch))) for _ in range(self.horizon)]
        return torch.cat(steps).float().cpu().numpy()

    def _batch(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(request) - {*self._inputs, TASK}):
            raise ValueError(f"{', '.join(unknown)}: not among the policy's inputs {sorted(self._inputs)}, {TASK}.")
        if missing := sorted(self._needed - set(request)):
            raise ValueError(f"{', '.join(missing)}: missing in the request; it has {sorted(request)}.")
        batch: dict[str, Any] = {name: self._tensor(name, value) for name, value in request.items() if name != TASK}
        return {**batch, TASK: str(request.get(TASK, ""))}

    def _tensor(self, name: str, value: Any) -> torch.Tensor:
        """``[1, ...]`` as LeRobot's processors take it: pictures ``[1, 3, height, width]`` in [0, 1]."""
        array, shape = np.asarray(value), self._inputs[name]
        if name in self._pictures:
            wanted = (*shape[1:], shape[0])
            if array.dtype != np.uint8 or array.shape != wanted:
                raise ValueError(f"{name} is {array.dtype} {array.shape}; valid is uint8 {wanted}, as it was trained.")
            array = array.transpose(2, 0, 1).astype(np.float32) / 255
        elif array.shape != shape or array.dtype.kind not in "iuf":
            raise ValueError(f"{name} is {array.dtype} {array.shape}; valid are numbers {shape}.")
        return torch.from_numpy(np.array(array, np.float32))[None].to(self._device)


def needed(config: Any) -> set[str]:
    """What every request must have: all inputs but cameras that are declared empty, and a task where text is read."""
    empty = {f"observation.images.empty_camera_{k}" for k in range(getattr(config, "empty_cameras", 0))}
    reads = any("tokenizer" in name for name in vars(config))
    return set(config.input_features) - empty | ({TASK} if reads else set())


def local(folder: str) -> Path:
    """The checkpoint on this machine; an id of the Hub is downloaded."""
    if os.path.isdir(folder):
        return Path(folder)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(folder, allow_patterns=["*.json", "*.safetensors"]))


def content(folder: Path) -> str:
    """Changes with weights, settings and statistics."""
    hashed = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        hashed.update(path.name.encode())
        inner = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                inner.update(piece)
        hashed.update(inner.digest())
    return hashed.hexdigest()[:12]


class Server:
    """openpi's protocol: metadata, then an answer for each request; an error is text, and the end of the connection.

    The policy computes on a thread of its own, one request after another, so that no connection waits for it.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._thread = ThreadPoolExecutor(1, "policy")

    async def run(self, host: str, port: int) -> None:
        """Until cancelled; port 0 takes a free one."""
        # A client that blocks in its own loop answers no pings.
        async with serve(
            self._converse, host, port, compression=None, max_size=MAX_BYTES, ping_interval=None,
            process_request=_health,
        ) as server:  # fmt: skip
            port = next(iter(server.sockets)).getsockname()[1]
            print(f"serving {self._policy.metadata['version']} on ws://{host}:{port}", flush=True)
            await server.serve_forever()

    async def _converse(self, client: ServerConnection) -> None:
        try:
            await client.send(pack(self._policy.metadata))
            async for data in client:
                await client.send(pack(await self._answer(data)))
        except ConnectionClosed:
            pass
        except Exception:
            traceback.print_exc()
            with contextlib.suppress(ConnectionClosed):
                await client.send(traceback.format_exc())
                await client.close(CloseCode.INTERNAL_ERROR, "The reason is in the text before.")

    async def _answer(self, data: str | bytes) -> dict[str, Any]:
        request = unpack(data) if isinstance(data, bytes) else None
        if not isinstance(request, dict):
            raise ValueError("A request is a binary message, a msgpack map of the policy's inputs.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._infer, request, zlib.crc32(data))

    def _infer(self, request: dict[str, Any], seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        actions = self._policy.answer(request, seed)
        return {"actions": actions, "server_timing": {"infer_ms": 1e3 * (time.perf_counter() - began)}}


def _health(client: ServerConnection, request: Request) -> Response | None:
    return client.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def pack(value: Any) -> bytes:
    """msgpack, an array as a map of its dtype, shape and bytes."""

    def array(found: Any) -> dict[bytes, Any]:
        found = np.asarray(found)
        return {b"__ndarray__": True, b"data": found.tobytes(), b"dtype": found.dtype.str, b"shape": found.shape}

    return msgpack.packb(value, default=array)


def unpack(data: bytes) -> Any:
    """Only ever data: an array of anything but numbers is refused."""

    def array(found: dict[Any, Any]) -> Any:
        if b"__npgeneric__" in found:
            return found[b"data"]
        if b"__ndarray__" not in found:
            return found
        dtype, shape = found[b"dtype"], tuple(found[b"shape"])
        if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
            raise ValueError(f"An array of {dtype!r} was sent; valid are numbers, such as '<f4'.")
        if math.prod(shape) * np.dtype(dtype).itemsize != len(found[b"data"]):
            raise ValueError(f"An array {shape} of {dtype} was sent with {len(found[b'data'])} bytes.")
        return np.frombuffer(found[b"data"], dtype).reshape(shape)

    return msgpack.unpackb(data, object_hook=array)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a folder that LeRobot has saved, or an id of the Hub")
    parser.add_argument("--device", help="left out: the checkpoint's")
    parser.add_argument("--host", default="127.0.0.1", help="there is no password: an address that only you reach")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Server(Policy(given.checkpoint, given.device)).run(given.host, given.port))


if __name__ == "__main__":
    main(sys.argv[1:])
