"""Table, light, solver settings and small helpers shared by the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from pld_sim.tabletop.contacts import SMOOTH
from pld_sim.tabletop.models import HIDDEN_GROUP, TASK_GROUP, VISUAL_GROUP

TABLE_HALF_SIZE = (0.45, 0.6, 0.02)
TABLE_CENTRE_X = 0.45


@dataclass(frozen=True)
class CameraPlacement:
    """A camera that looks from ``position`` at ``look_at`` (both in the parent body's frame, metres).

    fov: vertical field of view in degrees; up: a direction that shall point up in the picture.
    """

    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    fov: float
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def quat(self) -> np.ndarray:
        """Orientation (w, x, y, z): MuJoCo cameras look along -z with +y up."""
        back = np.subtract(self.position, self.look_at)
        back = back / np.linalg.norm(back)
        right = np.cross(self.up, back)
        right = right / np.linalg.norm(right)
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, np.stack([right, np.cross(back, right), back], axis=1).ravel())
        return quat


def add_camera(body: mujoco.MjsBody, name: str, placement: CameraPlacement) -> None:
    body.add_camera(name=name, pos=list(placement.position), quat=placement.quat(), fovy=placement.fov)


def configure(spec: mujoco.MjSpec, visual: bool) -> None:
    """Solver, light and table. The table's top is z = 0, the arm stands at the origin."""
    option = spec.option
    option.timestep = 0.002
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    quality = spec.visual.quality
    # Policy cameras are supersampled instead, see rendering.py.
    quality.offsamples, quality.shadowsize = (8, 4096) if visual else (0, 0)
    _light(spec, visual)
    table = spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[TABLE_CENTRE_X, 0.0, -TABLE_HALF_SIZE[2]],
        size=TABLE_HALF_SIZE,
        rgba=[0.30, 0.33, 0.38, 1.0],
        group=TASK_GROUP,
        friction=[0.9, 0.01, 0.0005],
    )
    if visual:
        _decorate(spec, table)


def _decorate(spec: mujoco.MjSpec, table: mujoco.MjsGeom) -> None:
    """A room for the picture: pale table, floor, sky. Nothing here collides."""
    table.rgba = [0.80, 0.78, 0.74, 1.0]
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.62, 0.70, 0.80],
        rgb2=[0.93, 0.95, 0.97],
        width=128,
        height=768,
    )
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=[0.0, 0.0, -0.75],
        size=[4.0, 4.0, 0.1],
        rgba=[0.66, 0.69, 0.73, 1.0],
        group=VISUAL_GROUP,
        contype=0,
        conaffinity=0,
    )


def _light(spec: mujoco.MjSpec, visual: bool) -> None:
    """Fixed lamps only. The headlight gives ambient light and no beam: it would follow whichever camera
    the shared scene drew last, and so make one lane's pictures depend on another's."""
    head = spec.visual.headlight
    head.active = 1
    head.ambient, head.diffuse, head.specular = [0.42] * 3, [0.0] * 3, [0.0] * 3
    lamp, fill = (0.45, 0.20) if visual else (0.5, 0.25)  # pale furniture would be overexposed
    for name, direction, strength in (("lamp", [-0.25, 0.45, -1.0], lamp), ("fill", [-1.0, 0.1, -0.25], fill)):
        spec.worldbody.add_light(
            name=name,
            pos=[0.8, -0.7, 1.6],
            dir=direction,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            diffuse=[strength] * 3,
            ambient=[0.0] * 3,
            specular=[0.1 * visual] * 3,
            castshadow=visual and name == "lamp",
        )


def add_box(
    body: mujoco.MjsBody,
    centre: Sequence[float],
    half_size: Sequence[float],
    rgba: Sequence[float],
    *,
    solid: bool = False,
    name: str = "",
    quat: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    **options: object,
) -> mujoco.MjsGeom:
    """A drawn box; it takes part in contacts only if ``solid``."""
    contact = {} if solid else {"contype": 0, "conaffinity": 0, "mass": 0.0}
    return body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=list(centre),
        size=list(half_size),
        quat=list(quat),
        rgba=list(rgba),
        **{"group": TASK_GROUP, **contact, **options},
    )


def add_hidden_box(
    body: mujoco.MjsBody, centre: Sequence[float], half_size: Sequence[float], **options: object
) -> mujoco.MjsGeom:
    """A box that collides but is not drawn: its coloured parts are drawn by other geoms."""
    return body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, pos=list(centre), size=list(half_size), group=HIDDEN_GROUP, **options
    )


@dataclass(frozen=True)
class Well:
    """A block with a rectangular hole from above. Lengths in metres; hole, outer: half sizes in x and y."""

    hole: tuple[float, float]
    outer: tuple[float, float]
    height: float
    depth: float
    rim: float = 0.003  # thickness of the bright layer on top


def add_well(
    spec: mujoco.MjSpec,
    body: mujoco.MjsBody,
    well: Well,
    colours: tuple[Sequence[float], Sequence[float], Sequence[float]],
) -> None:
    """Stand a block with a hole on the body's origin; colours: block, rim and inside of the hole.

    Contacts are with five boxes; drawn are three meshes, because every drawn geom costs 10 us a camera.
    """
    (hx, hy), (ox, oy), top = well.hole, well.outer, well.height
    floor, seam = top - well.depth, top - well.rim
    for axis, across, along in ((0, (ox - hx) / 2, oy), (1, (oy - hy) / 2, hx)):
        for sign in (-1.0, 1.0):
            centre, half = np.zeros(3), np.zeros(3)
            centre[axis], centre[2] = sign * (well.hole[axis] + across), top / 2
            half[axis], half[1 - axis], half[2] = across, along, top / 2
            add_hidden_box(body, centre.tolist(), half.tolist(), **SMOOTH)
    add_hidden_box(body, (0, 0, floor / 2), (hx, hy, floor / 2), **SMOOTH)
    name = body.name
    add_faces(spec, body, f"{name}_block", ring((ox, oy), 0.0, (ox, oy), seam), colours[0])
    rim = ring((ox, oy), seam, (ox, oy), top) + ring((ox, oy), top, (hx, hy), top)
    add_faces(spec, body, f"{name}_rim", rim, colours[1])
    bottom = [[(-hx, -hy, floor), (hx, -hy, floor), (hx, hy, floor), (-hx, hy, floor)]]
    add_faces(spec, body, f"{name}_hole", ring((hx, hy), top, (hx, hy), floor) + bottom, colours[2])


Quad = Sequence[tuple[float, float, float]]


def ring(start: tuple[float, float], z0: float, end: tuple[float, float], z1: float) -> list[Quad]:
    """Four faces that join the rectangle with half sizes ``start`` at z0 to ``end`` at z1.

    They face outwards when z1 is above z0 (or upwards when the second rectangle is the smaller one).
    """
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    low = [(sx * start[0], sy * start[1], z0) for sx, sy in signs]
    high = [(sx * end[0], sy * end[1], z1) for sx, sy in signs]
    return [[low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i]] for i in range(4)]


def add_faces(
    spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, quads: Sequence[Quad], rgba: Sequence[float]
) -> None:
    """Draw flat faces (counter-clockwise seen from their visible side) as one geom without contacts."""
    vertices = np.array(quads, dtype=float).reshape(-1, 3)
    first = 4 * np.arange(len(quads))[:, None]
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]])
    spec.add_mesh(
        name=name,
        uservert=vertices.ravel(),
        userface=faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname=name,
        rgba=list(rgba),
        group=TASK_GROUP,
        contype=0,
        conaffinity=0,
        mass=0.0,
    )
