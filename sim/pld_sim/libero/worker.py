"""The worker process: ``python -m pld_sim.libero.worker FD`` serves one simulation over the socket FD."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pld_core.errors import ConfigError, ContractError
from pld_core.link.codec import decode, encode
from pld_sim.libero.suites import Order

if TYPE_CHECKING:
    from pld_sim.libero.simulation import Simulation

Serve = Callable[..., dict[str, Any]]


def serve(connection: Connection, simulation: Simulation) -> None:
    """Answer until the other side closes; a refusal (ContractError) leaves everything as it was."""
    commands: dict[str, Serve] = {
        "reset": simulation.reset,
        "step": simulation.step,
        "snapshot": simulation.snapshot,
        "picture_of": simulation.picture_of,
        "render": simulation.render,
        "arm": simulation.arm,
        "begin_oracle": simulation.begin_oracle,
        "act": simulation.act,
        "grounding": simulation.grounding,
    }
    while True:
        request = decode(connection.recv_bytes())
        try:
            answer = commands[request.pop("do")](**request)
        except ContractError as error:
            answer = {"refused": str(error)}
        except ConfigError as error:
            answer = {"unusable": str(error)}
        connection.send_bytes(encode(answer))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it closes the socket
    connection, status = Connection(int(sys.argv[1])), 0
    try:
        _run(connection)
    except (EOFError, ConnectionError):
        pass  # the parent is done with us, or dead
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # robosuite's destructors would complain about a display that is closed already


def _run(connection: Connection) -> None:
    order = Order(**decode(connection.recv_bytes()))
    if not order.draw_threads:
        os.environ.setdefault("LP_NUM_THREADS", "0")  # of Mesa's llvmpipe; pixels are the same
    try:
        from pld_sim.libero.simulation import Simulation

        simulation = Simulation(order)
    except ImportError as error:
        connection.send_bytes(encode({"missing": error.name or "libero", "message": str(error)}))
        return
    connection.send_bytes(encode(simulation.description()))
    serve(connection, simulation)


if __name__ == "__main__":
    main()
