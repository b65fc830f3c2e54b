"""Pictures of a scene with some 300 000 triangles: pixel for pixel as the package draws them, or simplified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from pld_core.errors import ConfigError
from pld_sim.libero.meshes import VISIBLE_GROUP, Meshes
from pld_sim.libero.suites import CAMERAS, RENDERED, Order

if TYPE_CHECKING:
    from robosuite.utils.binding_utils import MjRenderContextOffscreen

HIDDEN_GROUP = 5
MARGIN = 1.01  # of the field of view, against rounding
MIRRORS = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX)  # the shapes that MuJoCo reflects in
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


class Pictures:
    """Draws with the package's own OpenGL context; belongs to the thread that made it.

    Without a GPU the time goes into triangles, not pixels. Shapes whose bounding box lies outside of a
    camera's view are left out, which changes no pixel. Where a mirror is in view and ``order.reflections`` is set
    they are all drawn, twice: a mirror may show what the camera does not see.

    What is simplified has a tenth of the triangles and no mirror images.
    """

    def __init__(self, context: MjRenderContextOffscreen, order: Order) -> None:
        self._context, self._order = context, order
        self._model: mujoco.MjModel = context.model._model
        self._cameras = {name: self._model.camera(package).id for name, package in CAMERAS.items()}
        self._groups = self._model.geom_group.copy()
        box = self._model.geom_aabb
        self._box_corners = box[:, None, :3] + _CORNERS * box[:, None, 3:]  # [G, 8, 3] in the geom's frame
        self._endless = self._model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        self._mirrors = np.flatnonzero(self._reflects()) if order.reflections else np.zeros(0, int)
        self._meshes = Meshes(self._model, lambda mesh: mujoco.mjr_uploadMesh(self._model, context.con, mesh))
        self._simplified = False

    def simplify(self, simplified: bool) -> None:
        """From the next picture on."""
        self._meshes.simplify(simplified)
        self._simplified = simplified

    def draw(self, data: mujoco.MjData) -> dict[str, np.ndarray]:
        """{camera: uint8 [size, size, 3]} the right way up."""
        size = self._order.image_size
        rendered = max(size, RENDERED)
        images = {}
        for name, camera in self._cameras.items():
            outside = self._outside(data, camera)
            mirrored = not self._simplified and not outside[self._mirrors].all()
            if not mirrored:
                self._model.geom_group[:] = np.where(outside, HIDDEN_GROUP, self._groups)
            try:
                image = self._draw(data, camera, rendered, rendered, mirrored)
            finally:
                self._model.geom_group[:] = self._groups
            images[name] = shrunk(image, size)
        return images

    def large(self, data: mujoco.MjData, height: int, width: int) -> np.ndarray:
        """The agent's view, uint8 [height, width, 3]; never simplified."""
        context = self._context
        self._meshes.simplify(False)  # a larger buffer is a new context, and that has whole meshes
        try:
            context.update_offscreen_size(max(width, context.con.offWidth), max(height, context.con.offHeight))
            return self._draw(data, self._cameras["agentview"], height, width, self._order.reflections)
        finally:
            self._meshes.simplify(self._simplified)

    def _draw(self, data: mujoco.MjData, camera: int, height: int, width: int, mirrored: bool) -> np.ndarray:
        context = self._context
        context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = mirrored
        context.cam.type, context.cam.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        mujoco.mjv_updateScene(
            self._model, data, context.vopt, context.pert, context.cam, mujoco.mjtCatBit.mjCAT_ALL, context.scn
        )
        viewport, image = mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, context.scn, context.con)
        mujoco.mjr_readPixels(image, None, viewport, context.con)
        return image[::-1]  # OpenGL counts rows from below

    def _outside(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Which geoms lie wholly beyond one side of a camera's view, bool [G]."""
        turns = data.geom_xmat.reshape(-1, 3, 3)
        corners = self._box_corners @ turns.transpose(0, 2, 1) + data.geom_xpos[:, None]
        x, y, z = np.moveaxis((corners - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3), -1, 0)
        reach = -z * np.tan(np.radians(self._model.cam_fovy[camera]) / 2) * MARGIN  # pictures are square
        sides = (x > reach, x < -reach, y > reach, y < -reach, z > 0)
        return np.logical_or.reduce([side.all(1) for side in sides]) & ~self._endless

    def _reflects(self) -> np.ndarray:
        """Which geoms are mirrors, bool [G]."""
        model = self._model
        material = model.geom_matid
        shiny = (material >= 0) & (model.mat_reflectance[material] > 0)
        return shiny & np.isin(model.geom_type, MIRRORS) & (self._groups == VISIBLE_GROUP)


def refuse_blank(images: Mapping[str, np.ndarray], task: str) -> None:
    """Raise ConfigError where a camera sees one colour only: OpenGL fails without a word."""
    for name, image in images.items():
        if image.std() == 0:
            raise ConfigError(
                f"Camera {name!r} of {task} is blank (all values are {image.flat[0]}): off-screen OpenGL does not "
                "work here. Run `pld doctor`, or try MUJOCO_GL=osmesa."
            )


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """The mean over square blocks, rounded; uint8 [size, size, 3]."""
    block = len(image) // size
    if block == 1:
        return np.ascontiguousarray(image)
    sums = image.reshape(size, block, size, block, 3).sum((1, 3), dtype=np.uint32)
    return ((sums + block * block // 2) // (block * block)).astype(np.uint8)
