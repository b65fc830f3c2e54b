"""Arm models from the vendors' own packages, prepared for contact-rich manipulation.

The FR3 comes from ``franky-sim``, the YAM from ``dreamscale-i2rt``; both are located without being
imported, so neither a robot driver nor its dependencies start here.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from pld_core.errors import RobotUnavailableError
from pld_sim.tabletop.contacts import GRIP

TASK_GROUP = 1  # geoms of the task: drawn in both qualities
VISUAL_GROUP = 2  # detailed meshes: drawn for people only
COLLISION_GROUP = 3  # simple geometry of hand and fingers: what the policy's cameras see of the arm
LINK_GROUP = 5  # simple geometry of the links, which the policy's cameras are not pointed at
HIDDEN_GROUP = 4  # collision geoms that have a nicer twin in another group

TOOL_SITE = "tool"  # between the fingertips; the frame that actions move


@dataclass(frozen=True)
class ArmModel:
    """What the controller needs to know of an arm.

    joints, actuators: names in kinematic order; fingers: the two slide joints, which are coupled as
    by the real gripper's rack; finger_open: joint value [m] at which the gripper is fully open;
    opening_per_finger: metres of opening between the fingers per metre of joint travel;
    home: joint angles [rad] near the middle of the workspace; nominal_quat: orientation
    (w, x, y, z) of the tool site when it points straight down; hand: body that carries the fingers.
    """

    joints: tuple[str, ...]
    actuators: tuple[str, ...]
    gripper_actuator: str
    fingers: tuple[str, str]
    finger_open: float
    pad_gap: float  # opening in metres between the pads at joint value 0
    home: tuple[float, ...]
    nominal_quat: tuple[float, float, float, float]
    hand: str


FR3 = ArmModel(
    joints=tuple(f"fr3_joint{i}" for i in range(1, 8)),
    actuators=tuple(f"fr3_joint{i}" for i in range(1, 8)),
    gripper_actuator="gripper",
    fingers=("finger_joint1", "finger_joint2"),
    finger_open=0.04,
    pad_gap=0.003,
    home=(0.0, 0.1, 0.0, -2.2, 0.0, 2.3, 0.7853),
    nominal_quat=(0.0, 1.0, 0.0, 0.0),
    hand="hand",
)


def package_folder(package: str, distribution: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise RobotUnavailableError(
            f"The robot model in package {package!r} is not installed. Do: pip install {distribution}"
        )
    return Path(next(iter(locations)))


def existing(path: Path, distribution: str) -> Path:
    if not path.exists():
        raise RobotUnavailableError(
            f"{path.name} is missing from the installed {distribution}. "
            f"Do: pip install --force-reinstall {distribution}"
        )
    return path


def load_fr3(visual: bool) -> tuple[mujoco.MjSpec, ArmModel]:
    """The FR3 with its hand, standing at the origin; ``visual`` keeps the detailed meshes."""
    folder = package_folder("franky_sim", "franky-sim") / "assets"
    spec = mujoco.MjSpec.from_file(str(existing(folder / "fr3.xml", "franky-sim")))
    for mesh in spec.meshes:
        mesh.file = str(folder / "meshes" / Path(mesh.file).name)
    for key in list(spec.keys):
        spec.delete(key)
    keep_meshes(spec, visual)
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    _simplify_collisions(spec)
    _strengthen_gripper(spec)
    hand = spec.body("hand")
    hand.add_site(name=TOOL_SITE, pos=[0.0, 0.0, 0.1034], group=5)
    return spec, FR3


def keep_meshes(spec: mujoco.MjSpec, visual: bool) -> None:
    """Drop the detailed meshes (240k faces on the FR3) unless a person is going to look."""
    if visual:
        return
    for geom in list(spec.geoms):
        if geom.classname.name == "visual":
            spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)


def _simplify_collisions(spec: mujoco.MjSpec) -> None:
    """Let only the hand and one box a finger collide.

    Links 0-7 cannot reach the table inside the workspace box, and the model's five pads a finger make
    32 contacts for one held object, which halves the speed and adds nothing.
    """
    for geom in list(spec.geoms):
        if geom.parent.name in ("left_finger", "right_finger"):
            if geom.classname.name.startswith("fingertip_pad"):
                spec.delete(geom)
            elif geom.classname.name != "visual":
                geom.contype, geom.conaffinity, geom.group = 0, 0, LINK_GROUP
        elif geom.classname.name == "collision" and geom.parent.name != "hand":
            geom.contype, geom.conaffinity, geom.group = 0, 0, LINK_GROUP
    for finger in ("left_finger", "right_finger"):
        spec.body(finger).add_geom(
            name=f"{finger}_pad",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[0.0, 0.0055, 0.033],
            size=[0.0085, 0.004, 0.020],
            group=COLLISION_GROUP,
            rgba=[0.15, 0.15, 0.17, 1.0],
            mass=0.0,
            **GRIP,
        )


def _strengthen_gripper(spec: mujoco.MjSpec) -> None:
    """Give the gripper a grip.

    As shipped it pulls with less than 1 N at 8 mm and the fingers inherit the arm's armature and
    friction loss, so a held peg drops. The rack that couples the fingers stays.
    """
    for name in FR3.fingers:
        joint = spec.joint(name)
        joint.armature, joint.frictionloss = 0.02, 0.1
        joint.damping = np.array([2.0, 0.0, 0.0]) if np.ndim(joint.damping) else 2.0
    for name in FR3.joints:
        spec.joint(name).frictionloss *= 0.3  # the real arm compensates most of its friction itself
    for actuator in list(spec.actuators):
        if actuator.name == "hand":
            spec.delete(actuator)
        else:
            # A quarter of the shipped stiffness is about 3 kN/m at the tool, like the real arm's stiffest
            # Cartesian impedance; as shipped it would press with 300 N and twist the part out of the hand.
            actuator.gainprm[0] *= 0.25
            actuator.biasprm[1] *= 0.25
            actuator.biasprm[2] *= 0.11
    # 140 N on both fingers together is the hand's continuous grasp force of 70 N.
    add_position_actuator(spec, FR3.gripper_actuator, tendon="split", kp=20000.0, kv=300.0, force=140.0, upper=0.04)


def add_position_actuator(
    spec: mujoco.MjSpec,
    name: str,
    *,
    kp: float,
    kv: float,
    force: float,
    joint: str = "",
    tendon: str = "",
    lower: float = 0.0,
    upper: float = 0.0,
) -> None:
    """A PD position servo on a joint or tendon [N/m or Nm/rad, force limit in N or Nm]."""
    actuator = spec.add_actuator(name=name)
    actuator.set_to_position(kp=kp, kv=kv)
    actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT if joint else mujoco.mjtTrn.mjTRN_TENDON
    actuator.target = joint or tendon
    actuator.forcelimited, actuator.forcerange = True, [-force, force]
    if upper > lower:
        actuator.ctrllimited, actuator.ctrlrange = True, [lower, upper]
