"""What RViz shows of an episode, as standard visualization_msgs. Pure functions: no node, no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from geometry_msgs.msg import Point
from pld_msgs.msg import PolicyStep
from rclpy.duration import Duration
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from pld_core.stations import Bounds

Colour = tuple[float, float, float, float]  # red, green, blue, opacity in [0, 1]
BASE: Colour = (0.25, 0.45, 0.95, 1.0)
EXECUTED: Colour = (0.15, 0.75, 0.30, 1.0)
RESIDUAL: Colour = (0.98, 0.55, 0.10, 1.0)
BOX: Colour = (0.6, 0.6, 0.6, 0.6)
TRAIL: Colour = (0.15, 0.75, 0.30, 0.5)
TEXT: Colour = (1.0, 1.0, 1.0, 1.0)
ALARM: Colour = (0.95, 0.15, 0.15, 1.0)

LIFETIME_S = 0.5  # without news the picture empties itself: a stale arrow would lie
ARROW_SCALE = 10.0  # a tick's motion is a centimetre at most, too short to see
_SHORTEST_M = 1e-4  # RViz complains of arrows without length
_BAR_M = (0.02, 0.02, 0.20)  # width, depth, height at success probability 1
_LINE_M, _TEXT_M = 0.003, 0.03


@dataclass(frozen=True)
class Scene:
    """What is known now; None or empty: nothing fresh.

    frame: of everything; workspace: lowest and highest xyz in metres; translation_m: metres per tick
    at |a| = 1; tool ``[3]`` and trail ``[N, 3]`` in metres; xi: scale of the step's residual;
    probability: of success; status: lines of text; alarms: what must not be overlooked.
    """

    frame: str
    translation_m: float
    workspace: Bounds | None = None
    tool: np.ndarray | None = None
    trail: Sequence[np.ndarray] = ()
    step: PolicyStep | None = None
    xi: float = 0.0
    probability: float | None = None
    status: Sequence[str] = ()
    alarms: Sequence[str] = ()


def draw(scene: Scene) -> MarkerArray:
    """All markers of the scene; what is not known is left out, and vanishes from the screen."""
    markers = [*_workspace(scene), *_trail(scene), *_arrows(scene), *_success(scene), *_texts(scene)]
    for number, marker in enumerate(markers):
        marker.header.frame_id = scene.frame  # stamp 0: RViz takes the newest transform, in simulated time too
        marker.id = number
        marker.lifetime = Duration(seconds=LIFETIME_S).to_msg()
    return MarkerArray(markers=markers)


def _workspace(scene: Scene) -> list[Marker]:
    if scene.workspace is None:
        return []
    marker = _marker("workspace", Marker.LINE_LIST, BOX, (_LINE_M, 0.0, 0.0))
    corners = [np.array(corner) for corner in product(*zip(*scene.workspace))]
    edges = [(a, b) for i, a in enumerate(corners) for b in corners[i + 1 :] if np.count_nonzero(a != b) == 1]
    marker.points = [_point(corner) for edge in edges for corner in edge]
    return [marker]


def _trail(scene: Scene) -> list[Marker]:
    if len(scene.trail) < 2:
        return []
    marker = _marker("trail", Marker.LINE_STRIP, TRAIL, (_LINE_M, 0.0, 0.0))
    marker.points = [_point(position) for position in scene.trail]
    return [marker]


def _arrows(scene: Scene) -> list[Marker]:
    """Base action and executed action from the tool, and the residual from the base action's tip."""
    if scene.tool is None or scene.step is None:
        return []
    scale = ARROW_SCALE * scene.translation_m
    base, executed = (scale * np.array(a[:3], float) for a in (scene.step.base_action, scene.step.action))
    residual = scale * scene.xi * np.array(scene.step.residual[:3], float)
    arrows = [
        _arrow("base_action", BASE, scene.tool, base, 0.006),
        _arrow("residual", RESIDUAL, scene.tool + _as_vector(base), residual, 0.004),
        None if scene.step.closing else _arrow("executed_action", EXECUTED, scene.tool, executed, 0.008),
    ]
    return [arrow for arrow in arrows if arrow is not None]


def _arrow(name: str, colour: Colour, start: np.ndarray, along: np.ndarray, thick_m: float) -> Marker | None:
    if along.shape != (3,) or not np.linalg.norm(along) > _SHORTEST_M:
        return None
    marker = _marker(name, Marker.ARROW, colour, (thick_m, 2.0 * thick_m, 0.0))
    marker.points = [_point(start), _point(start + along)]
    return marker


def _success(scene: Scene) -> list[Marker]:
    """A bar that fills from below and turns from red to green, with its number."""
    if scene.probability is None:
        return []
    share = float(np.clip(scene.probability, 0.0, 1.0))
    foot = _corner(scene)
    colour: Colour = (1.0 - share, share, 0.1, 1.0)
    frame, filling = (
        _cube("success_frame", (0.5, 0.5, 0.5, 0.25), foot, 1.0),
        _cube("success_bar", colour, foot, share),
    )
    number = _text("success_text", f"{100 * share:.0f} %", TEXT, foot + np.array([0.0, 0.0, _BAR_M[2] + _TEXT_M]))
    return [frame, *([filling] if share > 0 else []), number]


def _cube(name: str, colour: Colour, foot: np.ndarray, share: float) -> Marker:
    height = share * _BAR_M[2]
    marker = _marker(name, Marker.CUBE, colour, (_BAR_M[0], _BAR_M[1], height))
    marker.pose.position = _point(foot + np.array([0.0, 0.0, height / 2]))
    return marker


def _texts(scene: Scene) -> list[Marker]:
    above = _top(scene)
    found = []
    if scene.status:
        found.append(_text("status", "\n".join(scene.status), TEXT, above))
    if scene.alarms:
        higher = above + np.array([0.0, 0.0, (2 + len(scene.status)) * _TEXT_M])
        found.append(_text("banner", "  ".join(scene.alarms), ALARM, higher, 2 * _TEXT_M))
    return found


def _text(name: str, text: str, colour: Colour, position: np.ndarray, height_m: float = _TEXT_M) -> Marker:
    marker = _marker(name, Marker.TEXT_VIEW_FACING, colour, (0.0, 0.0, height_m))
    marker.pose.position = _point(position)
    marker.text = text
    return marker


def _marker(name: str, kind: int, colour: Colour, scale: tuple[float, float, float]) -> Marker:
    marker = Marker(ns=name, type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=colour[3])
    marker.scale.x, marker.scale.y, marker.scale.z = scale
    return marker


def _top(scene: Scene) -> np.ndarray:
    """Where text stands: above the middle of the workspace, or of the tool where there is none."""
    if scene.workspace is None:
        return (np.zeros(3) if scene.tool is None else scene.tool) + np.array([0.0, 0.0, 0.2])
    low, high = np.array(scene.workspace)
    return np.array([*(low + high)[:2] / 2, high[2] + 2 * _TEXT_M])


def _corner(scene: Scene) -> np.ndarray:
    """Foot of the bar: beside the workspace."""
    if scene.workspace is None:
        return _top(scene) + np.array([0.0, 0.2, -0.2])
    low, high = np.array(scene.workspace)
    return np.array([(low[0] + high[0]) / 2, high[1] + 2 * _BAR_M[1], low[2]])


def _as_vector(values: np.ndarray) -> np.ndarray:
    return values if values.shape == (3,) else np.zeros(3)


def _point(position: np.ndarray) -> Point:
    x, y, z = map(float, position)
    return Point(x=x, y=y, z=z)
