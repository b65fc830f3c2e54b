"""``pld serve``: a policy for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pld_core.cli.common import parse_own
from pld_core.errors import ConfigError

DESCRIPTION = """a policy over openpi's websocket protocol. `openpi-client` and `--policy ws://host:port` talk to it;
GET /healthz answers OK."""


@dataclass(frozen=True)
class ServeConfig:
    """What is served, and where. Clients connect without a password: bind an address that only they can reach."""

    policy: str = "compact"  # a base policy: compact, compact:CHECKPOINT, an installed name, module:factory
    run: str | None = None  # instead: the folder of a run, of which `part` is served
    part: Literal["base", "distilled", "specialist"] = "distilled"
    keys: str = "pld"  # names in requests: pld (as they are), one of robot_configs/policies, or a path to such a file
    host: str = "127.0.0.1"  # this machine only; 0.0.0.0 for everyone
    port: int = 8000
    most: int = 16  # requests that are computed together, at most

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 <= self.port <= 65535:
            raise ConfigError(
                f"--most is {self.most}, --port {self.port}; give 1 or more, and 0 (a free one) to 65535."
            )


def run(args: Sequence[str]) -> int:
    config = parse_own(ServeConfig, "serve", DESCRIPTION, args)
    from pld_core.serve.serving import serve

    serve(config)
    return 0
