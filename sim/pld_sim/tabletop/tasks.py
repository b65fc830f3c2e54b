"""The tasks by name, and the factories behind the ``pld.tasks`` entry points."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pld_core.errors import ConfigError, UnknownNameError
from pld_sim.tabletop.cube import CubePickup
from pld_sim.tabletop.environment import SharedScene, TabletopEnvironment
from pld_sim.tabletop.gpu import GpuInsertion
from pld_sim.tabletop.peg import PegInsertion
from pld_sim.tabletop.world import Task

TASKS: Mapping[str, type[Task]] = MappingProxyType(
    {task.name: task for task in (PegInsertion, CubePickup, GpuInsertion)}
)
QUALITIES = ("fast", "visual")


def make_environments(
    task: str, lanes: int, *, quality: str = "visual", image_size: int = 64
) -> list[TabletopEnvironment]:
    """``lanes`` independent environments that share one model and one renderer.

    quality: what ``render`` draws, see ``TabletopEnvironment``; image_size: pixels per side of both
    cameras. All lanes belong to the thread that resets first.
    """
    if task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    if quality not in QUALITIES:
        raise UnknownNameError("quality", quality, QUALITIES)
    if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
        raise ConfigError(f"lanes was given {lanes!r}; valid is an integer of at least 1.")
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 16 <= image_size <= 1024:
        raise ConfigError(f"image_size was given {image_size!r}; valid is an integer from 16 to 1024.")
    shared = SharedScene(TASKS[task](), image_size)
    return [TabletopEnvironment(shared, quality) for _ in range(lanes)]


def peg_insertion(lanes: int = 1) -> list[TabletopEnvironment]:
    """Insert a held peg into a socket (FR3)."""
    return make_environments("peg_insertion", lanes)


def cube_pickup(lanes: int = 1) -> list[TabletopEnvironment]:
    """Pick up the red cube among others (FR3)."""
    return make_environments("cube_pickup", lanes)


def gpu_insertion(lanes: int = 1) -> list[TabletopEnvironment]:
    """Insert a graphics card into its slot (YAM)."""
    return make_environments("gpu_insertion", lanes)
