"""The YAM arm with its linear gripper, composed from the vendor's two models.

The arm's last body is an empty mount; the gripper hangs in it under its own frame, as the vendor's
driver composes them.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from pld_sim.tabletop.contacts import GRIP
from pld_sim.tabletop.models import (
    COLLISION_GROUP,
    LINK_GROUP,
    TOOL_SITE,
    VISUAL_GROUP,
    ArmModel,
    add_position_actuator,
    existing,
    package_folder,
)

HAND = "hand_gripper"
# Stiffness [Nm/rad] and damping of the joint servos: about 2.5 kN/m at the tool. The vendor's own gains
# are four times softer. One ratio of damping to stiffness for all: the tool then lags along its path,
# not beside it.
SERVO = ((350, 17), (350, 17), (350, 17), (120, 6), (60, 3), (40, 2))
TOOL_Z = -0.134  # middle of the pads in the gripper's frame, 11 mm behind the fingertips

YAM = ArmModel(
    joints=tuple(f"joint{i}" for i in range(1, 7)),
    actuators=tuple(f"joint{i}" for i in range(1, 7)),
    gripper_actuator="gripper",
    fingers=("hand_joint7", "hand_joint8"),
    finger_open=0.0475,
    pad_gap=0.0,
    home=(0.0, 1.66, 1.45, -1.37, 0.0, 0.0),
    nominal_quat=(0.0, 0.0, 1.0, 0.0),
    hand=HAND,
)


def load_yam(visual: bool) -> tuple[mujoco.MjSpec, ArmModel]:
    """The arm standing at the origin; ``visual`` keeps the detailed meshes (100k faces)."""
    models = package_folder("i2rt", "dreamscale-i2rt") / "robot_models"
    spec = _read(models / "arm" / "yam" / "v1" / "yam.xml")
    gripper = _read(models / "gripper" / "linear_4310" / "linear_4310.xml")
    spec.body("gripper").add_frame().attach_body(gripper.body("gripper"), "hand_", "")
    for geom in list(spec.geoms):
        if visual:
            geom.contype, geom.conaffinity, geom.group = 0, 0, VISUAL_GROUP
            geom.rgba = _colour(geom.meshname)
        else:
            spec.delete(geom)
    if not visual:
        for mesh in list(spec.meshes):
            spec.delete(mesh)
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    _add_link_shapes(spec)
    _add_hand_shapes(spec)
    _add_servos(spec)
    return spec, YAM


def _read(path: Path) -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(existing(path, "dreamscale-i2rt")))
    for mesh in spec.meshes:
        mesh.file = str(path.parent / "assets" / Path(mesh.file).name)
    return spec


def _colour(mesh: str) -> list[float]:
    """The vendor's meshes have one random colour each; the real arm is dark with light covers."""
    if "tip" in mesh:
        return [0.16, 0.16, 0.18, 1.0]
    if "gripper" in mesh or mesh in ("base", "link4", "link5"):
        return [0.24, 0.25, 0.28, 1.0]
    return [0.88, 0.88, 0.90, 1.0]


def _add_link_shapes(spec: mujoco.MjSpec) -> None:
    """Capsules from joint to joint for the simple picture; they never collide."""
    for name in ("base", "link1", "link2", "link3", "link4", "link5"):
        body = spec.body(name)
        for child in body.bodies:
            if np.linalg.norm(child.pos) > 0.02:
                body.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                    fromto=[0.0, 0.0, 0.0, *child.pos],
                    size=[0.028, 0.0, 0.0],
                    rgba=[0.75, 0.75, 0.78, 1.0],
                    group=LINK_GROUP,
                    contype=0,
                    conaffinity=0,
                )


def _add_hand_shapes(spec: mujoco.MjSpec) -> None:
    """One box for the hand and one per finger: what collides and what the policy's cameras see."""
    hand = spec.body(HAND)
    box = mujoco.mjtGeom.mjGEOM_BOX
    hand.add_geom(
        type=box,
        pos=[0.0, 0.0, -0.030],
        size=[0.0325, 0.051, 0.034],
        rgba=[0.45, 0.45, 0.48, 1.0],
        group=COLLISION_GROUP,
    )
    hand.add_site(name=TOOL_SITE, pos=[0.0, 0.0, TOOL_Z], quat=[0.0, 1.0, 0.0, 0.0], group=5)
    for name, side in (("hand_tip_left", -1.0), ("hand_tip_right", 1.0)):
        finger = spec.body(name)
        inverse, centre = np.empty(4), np.empty(3)
        mujoco.mju_negQuat(inverse, np.array(finger.quat))
        wanted = np.array([0.0, side * 0.0035, -0.120]) - finger.pos  # closed, in the hand's frame
        mujoco.mju_rotVecQuat(centre, wanted, inverse)
        finger.add_geom(
            name=f"{name}_pad",
            type=box,
            pos=centre,
            quat=inverse,
            size=[0.010, 0.0035, 0.025],
            group=COLLISION_GROUP,
            rgba=[0.15, 0.15, 0.17, 1.0],
            **GRIP,
        )


def _add_servos(spec: mujoco.MjSpec) -> None:
    for name, (kp, kv) in zip(YAM.joints, SERVO, strict=True):
        joint = spec.joint(name)
        joint.armature, joint.frictionloss = 0.02, 0.1
        add_position_actuator(spec, name, joint=name, kp=kp, kv=kv, force=25.0)
    for name in YAM.fingers:
        joint = spec.joint(name)
        joint.armature, joint.frictionloss = 0.02, 0.1
    tendon = spec.add_tendon(name="hand_split")
    for name in YAM.fingers:
        tendon.wrap_joint(name, 0.5)
    add_position_actuator(
        spec, YAM.gripper_actuator, tendon="hand_split", kp=20000.0, kv=300.0, force=100.0, upper=YAM.finger_open
    )
