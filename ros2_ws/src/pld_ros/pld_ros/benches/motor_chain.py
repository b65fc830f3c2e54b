"""A YAM whose motors are simulated: i2rt's unmodified driver runs against them, in the same process."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's binary module has no stubs.

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import can
import can.interfaces
import mujoco
import numpy as np
from i2rt.motor_config_tool.dm_motor_registers import CAN_BROADCAST
from i2rt.robots.utils import ArmType, GripperType, combine_arm_and_gripper_xml

from pld_ros.benches.damiao import REPLY, DamiaoMotor

LOSS_OF_COMMUNICATION = 0xD  # a motor's error codes
OVERLOAD = 0xE
RESTING = (0.0, 1.66, 1.45, -1.37, 0.0, 0.0)  # joints [rad]: the tool points straight down
_VIRTUAL = ("can.interfaces.virtual", "VirtualBus")
_TYPES = ("DM4340",) * 3 + ("DM4310",) * 4
_STEP_S, _BEHIND_S = 0.002, 0.1
_WIRE_S = 0.00026  # two frames at 1 Mbit/s
# i2rt's yam_v1.yml: friction [Nm], and by how much its gravity torques are raised. The simulated motors deliver less
# than they are told by that much, as the real ones are taken to do.
_FRICTION = (0.3, 0.3, 0.3, 0.06, 0.06, 0.06)
_LOSS = (1.0, 1.1, 1.1, 1.2, 1.0, 1.0)
_ARMATURE = 0.02  # kg m2, of a motor behind its gears
# i2rt's linear_4310.yml: the motor turns by 6.57 rad for 96 mm between the fingers, which share them. Closed is the
# larger angle; open lies beyond half a turn, so that i2rt's own correction of that takes part.
_TURN_PER_M, _CLOSED_RAD = -6.57 / 0.048, 3.0
_FINGERS = ("joint7", "joint8")


class SimulatedMotors:
    """The six joints' motors and the gripper's on the CAN channel ``channel``, while the context is open.

    Physics by MuJoCo in real time, from i2rt's models. A joint whose motor gives no stiffness stays where it is, as if
    somebody held it up: a real one sinks. Within the context, python-can's "socketcan" is its virtual bus.
    """

    def __init__(self, channel: str = "can0", joints: Sequence[float] = RESTING, width_m: float = 0.09) -> None:
        self.channel, self.unplugged = channel, False
        self.delay_s = 0.0  # before each answer
        self.motors = [DamiaoMotor(index + 1, kind) for index, kind in enumerate(_TYPES)]
        self._model = _model()
        self._data = mujoco.MjData(self._model)
        self._data.qpos[:6], self._data.qpos[6:] = joints, width_m / 2
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    # -- seen from outside -----------------------------------------------------------------------

    @property
    def joint_positions(self) -> np.ndarray:
        """As they truly are, [6] rad."""
        with self._lock:
            return self._data.qpos[:6].copy()

    @property
    def gripper_width_m(self) -> float:
        with self._lock:
            return float(self._data.qpos[6] + self._data.qpos[7])

    @property
    def gripper_limits_rad(self) -> tuple[float, float]:
        """Angles of the gripper's motor when closed and when open."""
        return _CLOSED_RAD, _CLOSED_RAD + _TURN_PER_M * float(self._model.jnt_range[6, 1])

    @property
    def commands(self) -> int:
        """Taken by all motors together."""
        return sum(motor.commands for motor in self.motors)

    def fail(self, motor: int, error: int, lasting: bool = True) -> None:
        """Let a motor (1 to 7) report an error and lose its torque; ``lasting``: clearing it does not help."""
        self.motors[motor - 1].error, self.motors[motor - 1].lasting = error, lasting

    def silence(self, motor: int) -> None:
        """Let a motor (1 to 7) answer nothing any more; it keeps to its last command."""
        self.motors[motor - 1].silent = True

    def mend(self) -> None:
        """Take all faults away; errors still want to be cleared by whoever drives the arm."""
        self.unplugged, self.delay_s = False, 0.0
        for motor in self.motors:
            motor.lasting = motor.silent = False

    # -- running ---------------------------------------------------------------------------------

    def __enter__(self) -> SimulatedMotors:
        self._socketcan = can.interfaces.BACKENDS["socketcan"]
        can.interfaces.BACKENDS["socketcan"] = _VIRTUAL
        self._bus = can.Bus(interface="virtual", channel=self.channel)
        self._ending = threading.Event()
        self._measure()
        self._thread = threading.Thread(target=self._run, name="simulated motors", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Raises what ended the simulation before its time."""
        self._ending.set()
        self._thread.join()
        self._bus.shutdown()
        can.interfaces.BACKENDS["socketcan"] = self._socketcan
        if self._error is not None:
            raise RuntimeError("The simulated motors have ended by themselves.") from self._error

    def _run(self) -> None:
        self._now = time.monotonic()
        try:
            while not self._ending.is_set():
                message = self._bus.recv(_STEP_S)
                self._pass_time()
                if message is not None and not self.unplugged:
                    time.sleep(_WIRE_S + self.delay_s)
                    self._take(message)
        except Exception as error:
            self._error = error

    def _take(self, message: can.Message) -> None:
        data, broadcast = bytes(message.data), message.arbitration_id == CAN_BROADCAST
        number = data[0] if broadcast else message.arbitration_id
        if len(data) != 8 or not 1 <= number <= len(self.motors) or self.motors[number - 1].silent:
            return
        motor = self.motors[number - 1]
        reply = CAN_BROADCAST if broadcast else number + REPLY
        answer = motor.register(data) if broadcast else motor.taken(data)
        with contextlib.suppress(can.CanError):  # whoever asked has gone
            self._bus.send(can.Message(arbitration_id=reply, data=answer, is_extended_id=False))

    # -- physics ---------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        now = time.monotonic()
        if now - self._now < _STEP_S:
            return
        self._now = max(self._now, now - _BEHIND_S)  # what this machine had no time for did not happen
        with self._lock:
            while now - self._now >= _STEP_S:
                self._step()
                self._now += _STEP_S
            self._measure()

    def _step(self) -> None:
        model, data, held = self._model, self._data, []
        for index, motor in enumerate(self.motors):
            told = motor.active
            model.actuator_biasprm[index, 1:3] = -told.stiffness, -told.damping
            offset = _CLOSED_RAD if index == 6 else 0.0
            push = told.torque / (_LOSS[index] if index < 6 else 1.0)
            data.ctrl[index] = told.stiffness * (told.angle - offset) + told.damping * told.speed + push
            if index < 6 and told.stiffness == 0.0:
                held.append(index)
        before = data.qpos[held].copy()
        mujoco.mj_step(model, data)
        data.qpos[held], data.qvel[held] = before, 0.0

    def _measure(self) -> None:
        """What the motors feel of the arm."""
        for index, motor in enumerate(self.motors):
            scale, offset = (1.0, 0.0) if index < 6 else (_TURN_PER_M, _CLOSED_RAD)
            motor.angle = float(self._data.qpos[index]) * scale + offset
            motor.speed = float(self._data.qvel[index]) * scale
            motor.torque = float(self._data.actuator_force[index])


def _model() -> mujoco.MjModel:
    """Arm and gripper with a motor each, and nothing to collide with."""
    path = Path(combine_arm_and_gripper_xml(ArmType.YAM, GripperType.LINEAR_4310))
    spec = mujoco.MjSpec.from_file(str(path))
    path.unlink()
    for geom in list(spec.geoms):
        spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    spec.option.timestep = _STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for index, friction in enumerate(_FRICTION):
        _add_motor(spec, f"joint{index + 1}", friction, _ARMATURE, 1.0)
    for finger in _FINGERS:  # hard ends, for i2rt finds them by pushing
        spec.joint(finger).solref_limit, spec.joint(finger).solimp_limit = [0.005, 1.0], [0.99, 0.999, 1e-4, 0.5, 2.0]
    _add_motor(spec, _FINGERS[0], 10.0, 20.0, _TURN_PER_M)  # [N] and [kg]: friction and inertia behind the rack
    return spec.compile()


def _add_motor(spec: mujoco.MjSpec, joint: str, friction: float, armature: float, gear: float) -> None:
    spec.joint(joint).frictionloss, spec.joint(joint).armature = friction, armature
    motor = spec.add_actuator(name=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, target=joint)
    motor.gear = [gear, 0, 0, 0, 0, 0]
    motor.gaintype, motor.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    motor.gainprm[0] = 1.0
