"""Tabletop tasks in MuJoCo: peg_insertion and cube_pickup on an FR3, gpu_insertion on a YAM."""

from pld_sim.tabletop.environment import TabletopEnvironment
from pld_sim.tabletop.tasks import TASKS, cube_pickup, gpu_insertion, make_environments, peg_insertion

__all__ = ["TASKS", "TabletopEnvironment", "cube_pickup", "gpu_insertion", "make_environments", "peg_insertion"]
