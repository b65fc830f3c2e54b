"""Draws docs/monitor.png: what RViz shows, from the very messages of the monitor node.

python benchmarks/draw_monitor.py [docs/monitor.png]
"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from pld_msgs.msg import PolicyStep
from visualization_msgs.msg import Marker

from pld_core.stations import load_robot
from pld_ros.convert import floats
from pld_ros.markers import Scene, draw

TICKS = 70


def synthetic_scene() -> Scene:
    """An approach to a hole in a spiral, as seen in mid-way; no recorded data."""
    station = load_robot("fr3_sim")
    share = np.linspace(0.0, 1.0, TICKS)
    angle, radius = 5.0 * share, 0.12 * (1.0 - share) + 0.02
    x, y = 0.5 + radius * np.cos(angle), radius * np.sin(angle)
    trail = np.stack([x, y, 0.38 - 0.24 * share], axis=1)
    base, residual, xi = np.array([-0.2, 0.9, -0.5]), np.array([-1.0, -0.6, -0.2]), 0.5
    rows = {"base_action": base, "residual": residual, "action": np.clip(base + xi * residual, -1, 1)}
    step = PolicyStep(tick=TICKS, **{name: floats(np.array([*row, 0, 0, 0, 1.0])) for name, row in rows.items()})
    status = ("episode 18f3-000042 running (learn)", f"tick {TICKS}", "success 34 %", "robot moving")
    return Scene(
        station.frame, station.translation_m, station.workspace_m, trail[-1], list(trail), step, xi, 0.34, status
    )


def render(markers: list[Marker], path: str) -> None:
    figure = plt.figure(figsize=(8, 6), facecolor="#303030")
    axes = figure.add_subplot(projection="3d", facecolor="#303030", computed_zorder=False)
    for marker in markers:
        _draw(axes, marker)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.view_init(22, -150)
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(path, dpi=100)


def _draw(axes, marker: Marker) -> None:
    colour = (marker.color.r, marker.color.g, marker.color.b, marker.color.a)
    points = np.array([[p.x, p.y, p.z] for p in marker.points])
    centre, scale = marker.pose.position, marker.scale
    if marker.type == Marker.LINE_LIST:
        for start, end in points.reshape(-1, 2, 3):
            axes.plot(*np.stack([start, end]).T, color=colour, linewidth=1)
    elif marker.type == Marker.LINE_STRIP:
        axes.plot(*points.T, color=colour, linewidth=2)
    elif marker.type == Marker.ARROW:
        axes.quiver(*points[0], *(points[1] - points[0]), color=colour, linewidth=400 * scale.x)
    elif marker.type == Marker.CUBE:
        corner = np.array([centre.x, centre.y, centre.z]) - np.array([scale.x, scale.y, scale.z]) / 2
        axes.bar3d(*corner, scale.x, scale.y, scale.z, color=colour)
    elif marker.type == Marker.TEXT_VIEW_FACING:
        axes.text(centre.x, centre.y, centre.z, marker.text, color=colour, ha="center", size=350 * scale.z)


if __name__ == "__main__":
    render(draw(synthetic_scene()).markers, sys.argv[1] if len(sys.argv) > 1 else "docs/monitor.png")
