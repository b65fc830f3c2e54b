"""The five suites by name, and what an environment is asked for. Imports nothing of LIBERO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pld_core.errors import ConfigError, UnknownNameError

RENDERED = 128  # pixels per side, as LIBERO's own demonstrations are recorded
IMAGE_SIZES = (32, 64, 128, 256)
CAMERAS: Mapping[str, str] = MappingProxyType({"agentview": "agentview", "wrist": "robot0_eye_in_hand"})
"""Our name of each camera, and the package's."""
PROPRIO_NAMES = (
    "tool_x_m", "tool_y_m", "tool_z_m", "tool_rx_rad", "tool_ry_rad", "tool_rz_rad", "finger_left_m", "finger_right_m",
)  # fmt: skip


@dataclass(frozen=True)
class Suite:
    """How many tasks a suite has, and the ticks until an episode is truncated.

    The limits are those of the evaluation that OpenVLA and openpi share: the suite's longest demonstration
    and some more (LIBERO's own evaluation gives every task 600).
    """

    tasks: int
    max_steps: int


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "libero_spatial": Suite(10, 220),
        "libero_object": Suite(10, 280),
        "libero_goal": Suite(10, 300),
        "libero_10": Suite(10, 520),
        "libero_90": Suite(90, 400),
    }
)


@dataclass(frozen=True)
class Order:
    """One task and how its pictures are made; plain values, they travel to the worker process."""

    suite: str
    index: int
    image_size: int = 64
    reflections: bool = True
    draw_threads: bool = True  # without a GPU, rasterise on threads of its own; False where lanes fill the cores

    @property
    def task(self) -> str:
        return f"{self.suite}/{self.index}"


def parse(task: str) -> tuple[str, int]:
    """Suite and number of ``libero_object/0``; raises UnknownNameError or ConfigError on anything else."""
    suite, _, number = task.partition("/")
    if suite not in SUITES:
        raise UnknownNameError(
            "LIBERO suite", suite, SUITES, "A task is named <suite>/<number>, as in libero_object/0."
        )
    count = SUITES[suite].tasks
    if not (number.isascii() and number.isdigit() and int(number) < count):
        raise ConfigError(f"{suite} has no task {number!r}; valid is a number from 0 to {count - 1}, as in {suite}/0.")
    return suite, int(number)
