"""A network camera: pictures as multipart JPEG over HTTP on the loopback."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

Pictures = Callable[[str], Iterator[bytes]]


@contextmanager
def jpeg_server(pictures: Pictures) -> Iterator[str]:
    """Serves ``<the URL that is yielded>/<name>``.

    pictures: called on a thread per viewer; answers the JPEGs for a name at the pace at which they are to be sent. A
    name without any gets the status 404; the end of the pictures ends the stream, b"" sends nothing.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given: object) -> None: ...

        def do_GET(self) -> None:
            source = pictures(self.path.strip("/"))
            first = next(source, None)
            if first is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            try:
                self.wfile.write(_part(first))
                for jpeg in source:
                    self.wfile.write(_part(jpeg))
            except OSError:  # the viewer has gone
                pass
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def jpeg(picture: np.ndarray, quality: int = 95) -> bytes:
    """Of a picture, uint8 ``[h, w, 3]`` RGB; colours in full resolution."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality, subsampling=0)
    return data.getvalue()


def _part(data: bytes) -> bytes:
    if not data:
        return b""
    return b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"
