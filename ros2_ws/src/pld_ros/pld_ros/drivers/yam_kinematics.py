"""Where a YAM's tool is for its joints, and the joints for a pose of the tool."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's binary module has no stubs.

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import mujoco
import numpy as np

from pld_core.control import rotations
from pld_core.errors import RobotError, RobotUnavailableError
from pld_ros.drivers.kinematics import JointMargins, without_shapes

JOINTS = tuple(f"joint{i}" for i in range(1, 7))
HAND = "gripper"  # the body that i2rt's models of arm and gripper share
TOOL = "tool"
_VENDORS_TOOL = "tcp_site"  # at the gripper's flange, z along the fingers
# The vendor's x axis points back to the base where the tool points straight down. Half a turn about the tool's own
# axis makes straight down the orientation that it is for every arm, rotations.STRAIGHT_DOWN.
_HALF_TURN = np.array([0.0, 0.0, 0.0, 1.0])
_CLOSE_M, _CLOSE_RAD = 5e-5, 5e-4  # a pose is reached
_ROUNDS = 6  # one or two suffice on the way; the others are for where the arm cannot quite go
_TIMED = 10_000  # calls whose times are kept
_JUMP_RAD = 0.8  # a joint that would turn further than this for one pose goes to another branch, or flails


class YamKinematics:
    """Of the arm with its gripper, by i2rt's own models; poses are of the tool centre in the base frame.

    tool_offset_m: from the gripper's flange to the tool centre, along the fingers; margin_rad: how close to its end a
    joint may come; max_step_rad: how far a joint may move in one command. Not for use by several threads at a time.
    ``took_s``: seconds that each of the last calls of ``joints_for`` took.
    """

    def __init__(
        self, arm_type: str, gripper_type: str, tool_offset_m: float, margin_rad: float, max_step_rad: float
    ) -> None:
        mink = imported()
        self.took_s: deque[float] = deque(maxlen=_TIMED)
        spec = _without_fingers(model_of(arm_type, gripper_type))
        position, quaternion = _tool_in_hand(spec, tool_offset_m)
        spec.body(HAND).add_site(name=TOOL, pos=position, quat=quaternion)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(TOOL).id
        self._low, self._high = self._model.jnt_range.T + np.array([[1e-3], [-1e-3]])
        self._configuration = mink.Configuration(self._model)
        self._task = mink.FrameTask(TOOL, "site", position_cost=1.0, orientation_cost=0.2, lm_damping=1e-2)
        self._limits = [mink.ConfigurationLimit(self._model, min_distance_from_limits=margin_rad / 2)]
        self.reachable = JointMargins(
            spec, JOINTS, HAND, position.tolist(), margin_rad, max_step_rad, quaternion.tolist()
        ).reachable

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position ``[3]`` [m] and quaternion ``[4]`` (w, x, y, z) for joints ``[6]`` [rad]."""
        self._data.qpos[:] = joints
        mujoco.mj_kinematics(self._model, self._data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._site])
        return self._data.site_xpos[self._site].copy(), quaternion

    def joints_for(self, position: np.ndarray, quaternion: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Joints ``[6]`` [rad] within their limits, from ``start`` on; for a pose out of reach the nearest ones.

        Where that is a leap away they are ``start`` itself. Raises RobotError where the solver fails.
        """
        began = time.perf_counter()
        mink = imported()
        configuration, task = self._configuration, self._task
        start = np.clip(start, self._low, self._high)
        configuration.update(start)
        task.set_target(mink.SE3(np.concatenate([quaternion, position])))
        try:
            for _ in range(_ROUNDS):
                error = task.compute_error(configuration)
                if np.linalg.norm(error[:3]) < _CLOSE_M and np.linalg.norm(error[3:]) < _CLOSE_RAD:
                    break
                velocity = mink.solve_ik(configuration, [task], 1.0, solver="daqp", damping=1e-6, limits=self._limits)
                configuration.integrate_inplace(velocity, 1.0)
        except mink.MinkError as error:
            raise RobotError(f"No joint angles were found for the tool at {position.tolist()}: {error}") from error
        finally:
            self.took_s.append(time.perf_counter() - began)
        found = np.clip(configuration.q, self._low, self._high)
        return found if np.abs(found - start).max() < _JUMP_RAD else start


def imported():
    """mink, with i2rt beside it; raises RobotUnavailableError where they are not installed."""
    try:
        import i2rt
        import mink
    except ImportError as error:
        raise RobotUnavailableError(
            f"The driver of the YAM needs i2rt, mink and python-can ({error}). Do: pip install 'pld[yam]'"
        ) from error
    assert i2rt is not None
    return mink


def model_of(arm_type: str, gripper_type: str) -> mujoco.MjSpec:
    """An arm with its gripper, as i2rt's driver composes them; bodies and joints only."""
    from i2rt.robots.utils import ArmType, GripperType, combine_arm_and_gripper_xml

    path = Path(combine_arm_and_gripper_xml(ArmType(arm_type), GripperType(gripper_type)))
    spec = mujoco.MjSpec.from_file(str(path))
    path.unlink()  # i2rt leaves one of these in /tmp whenever it is asked
    without_shapes(spec)
    return spec


def _without_fingers(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    for equality in list(spec.equalities):
        spec.delete(equality)
    for exclusion in list(spec.excludes):
        spec.delete(exclusion)
    for finger in list(spec.body(HAND).bodies):
        spec.delete(finger)
    return spec


def _tool_in_hand(spec: mujoco.MjSpec, offset_m: float) -> tuple[np.ndarray, np.ndarray]:
    """The tool centre's position and orientation in the frame of the hand's body."""
    site = spec.compile().site(_VENDORS_TOOL)
    along = np.empty(3)
    mujoco.mju_rotVecQuat(along, np.array([0.0, 0.0, offset_m]), site.quat)
    return site.pos + along, rotations.multiply(site.quat, _HALF_TURN)
