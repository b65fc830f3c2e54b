"""From a task's goal predicates to a plan of skills."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from pld_core.errors import ContractError
from pld_sim.libero.fixtures import Open, TurnOn
from pld_sim.libero.scene import Scene
from pld_sim.libero.skills import PickPlace, Skill

INSIDE_M = 0.02  # below the upper face of a container's region, an object is let go
ABOVE_M = 0.004  # above its support


def plan_of(scene: Scene) -> list[Skill]:
    """The skills that fulfil the goal, in order; raises ContractError where a predicate has no skill."""
    return [skill for goal in scene.domain.parsed_problem["goal_state"] for skill in _skills(scene, goal)]


def _skills(scene: Scene, goal: list[str]) -> list[Skill]:
    predicate, *names = goal
    fulfilled = _judge(scene, goal)
    if predicate in ("in", "on"):
        shut = _shut(scene, names[1])
        opening = _open(scene, names[1]) if shut else []
        if opening or not shut:
            return [*opening, _pick_place(scene, predicate, names[0], names[1], fulfilled)]
    if predicate == "open" and (opening := _open(scene, names[0])):
        return opening
    if predicate == "turnon":
        return [TurnOn(scene, joint, fulfilled) for joint in scene.domain.get_object(names[0]).joints]
    raise ContractError(f"This task has no scripted expert: no skill fulfils the goal {' '.join(goal)!r} from here.")


def _shut(scene: Scene, target: str) -> bool:
    """Whether the target is a drawer or the like that would have to be opened first."""
    site = scene.domain.object_sites_dict.get(target)
    return bool(site is not None and site.joints) and not scene.domain.object_states_dict[target].is_open()


def _open(scene: Scene, region: str) -> list[Skill]:
    """How a drawer is opened; nothing where the region is behind a door or has none."""
    site = scene.domain.object_sites_dict.get(region)
    slides = [j for j in site.joints if scene.model.joint(j).type[0] == mujoco.mjtJoint.mjJNT_SLIDE] if site else []
    return [Open(scene, joint, _outwards(scene, site.parent_name), _judge(scene, ["open", region])) for joint in slides]


def _outwards(scene: Scene, owner: str) -> float:
    """The sign of a drawer's joint when it is open."""
    articulation = scene.domain.get_object(owner).object_properties["articulation"]
    return float(np.sign(np.mean(articulation["default_open_ranges"])))


def _judge(scene: Scene, goal: list[str]) -> Callable[[], bool]:
    return lambda: bool(scene.domain._eval_predicate(goal))


def _pick_place(scene: Scene, predicate: str, name: str, target: str, fulfilled: Callable[[], bool]) -> PickPlace:
    owner = _owner(scene, target)
    support = np.zeros(scene.model.ngeom, bool) if owner is None else scene.geoms(scene.body(owner))
    place = (lambda: inside(scene, target)) if predicate == "in" else (lambda: ontop(scene, name, target, support))
    return PickPlace(scene, name, place, fulfilled, support)


def _owner(scene: Scene, target: str) -> str | None:
    """The object or fixture that a region belongs to; None for regions of the table."""
    site = scene.domain.object_sites_dict.get(target)
    return target if site is None else site.parent_name


def inside(scene: Scene, region: str) -> np.ndarray:
    """Where an object's position is well within a container's region [3]."""
    site = scene.domain.object_sites_dict[region]
    half = np.abs(scene.rotation(region) @ np.asarray(site.size))
    return scene.position(region) + np.array([0.0, 0.0, half[2] - INSIDE_M])


def ontop(scene: Scene, name: str, target: str, support: np.ndarray) -> np.ndarray:
    """Where an object's position is when it stands on the middle of an object or region [3]."""
    geoms, place = scene.geoms(scene.body(name)), scene.position(target)
    bottom, _ = scene.span(geoms, np.array([0.0, 0.0, 1.0]))
    surface = place[2]
    if target not in scene.domain.object_sites_dict:
        surface = scene.span(support, np.array([0.0, 0.0, 1.0]))[1]
    return np.array([*place[:2], surface + ABOVE_M + scene.position(name)[2] - bottom])
