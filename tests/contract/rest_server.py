"""OpenVLA's and OpenVLA-OFT's servers for tests: their protocol over real sockets, with another network behind it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Request = Mapping[str, Any]
KNOWN = ("libero_object_no_noops", "bridge_orig")  # what the checkpoint has statistics of


def json_numpy(value: Any) -> Any:
    """As the package json-numpy writes an array."""
    data = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": data, "dtype": value.dtype.str, "shape": list(value.shape)}


def _array(mapping: dict[str, Any]) -> Any:
    if "__numpy__" not in mapping:
        return mapping
    data = base64.b64decode(mapping["__numpy__"])
    return np.frombuffer(data, np.dtype(mapping["dtype"])).reshape(mapping["shape"])


def openvla(request: Request) -> Any:
    """One action, float64 [7]: a function of picture and instruction."""
    image, instruction = request["image"], request["instruction"].lower()
    assert request.get("unnorm_key") in KNOWN
    assert image.shape == (224, 224, 3)
    return json_numpy(_action(image, len(instruction)))


def oft(request: Request) -> Any:
    """A list of eight actions: a function of pictures, state and instruction."""
    pictures = [request["full_image"], *(request[key] for key in request if "wrist" in key)]
    state = request["state"]
    assert state.shape == (8,)
    assert len(pictures) == 2
    shift = float(np.sum(state)) + len(request["instruction"])
    return [json_numpy(_action(np.concatenate(pictures), shift + k)) for k in range(8)]


def _action(image: np.ndarray, shift: float) -> np.ndarray:
    assert image.dtype == np.uint8
    mean = image.mean(axis=(0, 1)).repeat(2)[:6] / 255
    return np.append(np.sin(10 * mean + shift), float(shift % 2 < 1))


class RestServer:
    """A server on threads of this process; ``end`` and ``start`` as often as wanted, at one port.

    answer: of a request, plain JSON; what it raises is the answer "error", as both servers have it.
    raw: instead of any answer, does what it likes with the connection.
    """

    def __init__(self, answer: Callable[[Request], Any], raw: Callable[[Any], bool] | None = None) -> None:
        self.answer, self.raw, self.port = answer, raw, 0
        self.requests: list[Request] = []
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.raw is not None and outer.raw(self):
                    self.close_connection = True
                elif self.path != "/act":
                    self.reply(404, {"detail": "Not Found"})
                elif self.headers["Content-Type"] != "application/json":
                    self.reply(422, {"detail": [{"type": "dict_type", "loc": ["body"]}]})
                else:
                    self.reply(200, outer.predicted(body))

            def reply(self, status: int, value: Any) -> None:
                self.send(status, "application/json", json.dumps(value).encode())

            def send(self, status: int, kind: str, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that has gone while it was written to."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def predicted(self, body: bytes) -> Any:
        try:
            request = json.loads(body, object_hook=_array)
            self.requests.append(request)
            return self.answer(request)
        except Exception:
            return "error"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> RestServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
