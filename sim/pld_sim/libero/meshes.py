"""Fewer triangles for practice: meshes on a coarser grid, chosen among the vertices that are there."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

KEPT_SHARE = 0.1  # of a mesh's triangles, about
FEW = 2000  # triangles; of so few none are saved
FINEST_M = 0.003  # of a cell: the wrist camera's pixels at 10 cm
VISIBLE_GROUP = 1  # robosuite draws visual shapes only
NEAR_CAMERA = "gripper"  # bodies that the wrist camera has before its lens
UV_CELLS = 8  # per side of a texture; a texture's islands must not be mixed
FACES = ("mesh_face", "mesh_facenormal", "mesh_facetexcoord")


class Meshes:
    """The visible meshes in an OpenGL context, whole or simplified; the model and its physics stay what they are."""

    def __init__(self, model: mujoco.MjModel, upload: Callable[[int], None]) -> None:
        """upload: gives the context the model's present faces of a mesh; called in the context's thread only."""
        self._model, self._upload = model, upload
        self._coarse: dict[int, dict[str, np.ndarray]] = {}
        self._simplified = False

    def simplify(self, simplified: bool) -> None:
        """From the next picture on; the first time takes seconds, others some hundredths."""
        if simplified == self._simplified:
            return
        self._coarse = self._coarse or {mesh: coarse(self._model, mesh) for mesh in self._large()}
        for mesh, faces in self._coarse.items():
            if simplified:
                self._upload_as(mesh, faces)
            else:
                self._upload(mesh)
        self._simplified = simplified

    def _upload_as(self, mesh: int, faces: dict[str, np.ndarray]) -> None:
        model = self._model
        start, whole = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        rows = slice(start, start + len(faces[FACES[0]]))
        kept = {name: getattr(model, name)[rows].copy() for name in FACES}
        try:
            for name in FACES:
                getattr(model, name)[rows] = faces[name]
            model.mesh_facenum[mesh] = len(faces[FACES[0]])
            self._upload(mesh)
        finally:
            model.mesh_facenum[mesh] = whole
            for name in FACES:
                getattr(model, name)[rows] = kept[name]

    def _large(self) -> list[int]:
        """Meshes of many triangles that nothing shows right before a camera."""
        model = self._model
        shown = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group == VISIBLE_GROUP)
        near = np.array([NEAR_CAMERA in model.body(body).name for body in model.geom_bodyid])
        wanted = set(model.geom_dataid[shown & ~near]) - set(model.geom_dataid[shown & near])
        return [int(mesh) for mesh in sorted(wanted) if model.mesh_facenum[mesh] >= FEW]


def coarse(model: mujoco.MjModel, mesh: int) -> dict[str, np.ndarray]:
    """A mesh's triangles after all vertices of a cell of space have moved to one of them, int32 [F, 3] by ``FACES``.

    Triangles with less than three cells vanish, as do doubles. Corners keep their normals, and take their
    place in the texture from the corner that is nearest to the cell's mean, of the same part of the texture.
    """
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    vertices = model.mesh_vert[first : first + count].astype(np.float64)
    rows = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    face, normal, place = (getattr(model, name)[rows] for name in FACES)
    cell = _groups(np.floor(vertices / _cell_size(vertices[face])))
    sizes = np.bincount(cell)
    mean = np.stack([np.bincount(cell, axis) for axis in vertices.T], 1) / sizes[:, None]
    away = np.linalg.norm(vertices - mean[cell], axis=1)
    cells = cell[face]
    if model.mesh_texcoordadr[mesh] >= 0:
        uv = model.mesh_texcoord[model.mesh_texcoordadr[mesh] + place]
        corner = _groups(np.concatenate([cells[..., None], np.floor(uv * UV_CELLS)], -1).reshape(-1, 3))
        place = place.ravel()[_nearest(corner, away[face].ravel())][corner].reshape(-1, 3)
    kept = _distinct(cells)
    return {FACES[0]: _nearest(cell, away)[cells][kept], FACES[1]: normal[kept], FACES[2]: place[kept]}


def _cell_size(triangles: np.ndarray) -> float:
    """Of cells that leave KEPT_SHARE of a closed surface's triangles: two for each cell that it crosses."""
    sides = triangles[:, 1:] - triangles[:, :1]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum() / 2
    return max(float(np.sqrt(2 * area / (KEPT_SHARE * len(triangles)))), FINEST_M)


def _groups(rows: np.ndarray) -> np.ndarray:
    """The number of each row among the different ones, int [N]."""
    return np.unique(rows.astype(np.int64), axis=0, return_inverse=True)[1].ravel()


def _nearest(group: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Of each group the index of the member with the least distance, int [G]."""
    order = np.lexsort((distance, group))
    return order[np.flatnonzero(np.diff(group[order], prepend=-1))]


def _distinct(cells: np.ndarray) -> np.ndarray:
    """Indices of triangles with three different cells, each of them once whichever corner is the first."""
    corners = np.argmin(cells, axis=1)[:, None] + np.arange(3)
    first = np.unique(np.take_along_axis(cells, corners % 3, 1), axis=0, return_index=True)[1]
    a, b, c = cells[first].T
    return np.sort(first[(a != b) & (b != c) & (a != c)])
