"""The scripted expert of a LIBERO task; runs in the worker, where the privileged state is."""

from __future__ import annotations

from typing import Any

import numpy as np

from pld_sim.libero.goals import plan_of
from pld_sim.libero.scene import Scene
from pld_sim.libero.skills import RETREAT, withdraw


class ScriptedExpert:
    """Acts by a plan of skills read from the task's goal. The action depends on the present state
    and on the spot that was chosen to grasp an object by.

    Raises ContractError, on construction, where the goal needs a skill that there is none for.
    """

    def __init__(self, domain: Any, model: Any, data: Any) -> None:
        self._scene = Scene(domain, model, data)
        self._plan = plan_of(self._scene)

    def act(self) -> np.ndarray:
        """Action for the present state, float32 [7]; +1 opens."""
        for skill in self._plan:
            if not skill.done():
                return skill.act()
        offset, _ = self._plan[-1].target()
        return withdraw(self._scene, float(self._scene.tool[2] + offset[2] + RETREAT))

    def grounding(self) -> np.ndarray:
        """From the tool to its present target, float32 [5]: dx, dy, dz in cm, sine and cosine of the turn about z.

        The target is where the next object is grasped and, while it is held, where it is put.
        """
        skill = next((s for s in self._plan if not s.done()), self._plan[-1])
        offset, turn = skill.target()
        return np.array([*(100.0 * offset), np.sin(turn), np.cos(turn)], np.float32)
