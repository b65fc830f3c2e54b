"""Pictures for people: detailed meshes, soft light, shadows, any size."""

from __future__ import annotations

import mujoco
import numpy as np

from pld_core.errors import ConfigError
from pld_sim.tabletop.models import COLLISION_GROUP, LINK_GROUP, TASK_GROUP, VISUAL_GROUP
from pld_sim.tabletop.rendering import Renderer
from pld_sim.tabletop.scene import add_camera
from pld_sim.tabletop.world import Task, show

PICTURE_CAMERA = "picture"


class Picture:
    """A second model of the same scene, built on first use; it takes the pose of a snapshot."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._models: dict[bool, tuple[mujoco.MjModel, mujoco.MjData]] = {}
        self._renderers: dict[tuple[bool, int, int], Renderer] = {}

    def render(self, snapshot: np.ndarray, size: tuple[int, int], visual: bool) -> np.ndarray:
        """uint8 [height, width, 3] of the state in ``snapshot``; ``size`` is height and width."""
        if not all(isinstance(side, (int, np.integer)) and 16 <= side <= 4096 for side in size):
            raise ConfigError(f"render was given height and width {size}; valid are integers from 16 to 4096.")
        model, own = self._model(visual)
        show(snapshot, model, own)
        return self._renderer(visual, size).render(own)[0]

    def free(self) -> None:
        for renderer in self._renderers.values():
            renderer.free()
        self._renderers.clear()

    def _model(self, visual: bool) -> tuple[mujoco.MjModel, mujoco.MjData]:
        if visual not in self._models:
            spec, _ = self._task.build(visual=visual)
            add_camera(spec.worldbody, PICTURE_CAMERA, self._task.picture)
            model = spec.compile()
            self._models[visual] = model, mujoco.MjData(model)
        return self._models[visual]

    def _renderer(self, visual: bool, size: tuple[int, int]) -> Renderer:
        height, width = int(size[0]), int(size[1])
        key = (visual, height, width)
        if key not in self._renderers:
            self.free()  # one size at a time: a context holds all meshes
            groups = (TASK_GROUP, VISUAL_GROUP) if visual else (TASK_GROUP, COLLISION_GROUP, LINK_GROUP)
            self._renderers[key] = Renderer(
                self._model(visual)[0], (PICTURE_CAMERA,), (height, width), groups, decorated=visual
            )
        return self._renderers[key]
