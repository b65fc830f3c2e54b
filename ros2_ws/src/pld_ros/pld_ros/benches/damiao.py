"""One Damiao motor as it appears on the CAN bus."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from i2rt.motor_config_tool.dm_motor_registers import CMD_READ, CMD_WRITE, REG_BY_ADDR, DMRegAddr
from i2rt.motor_drivers.utils import MotorConstants, MotorType, float_to_uint, uint_to_float

REPLY = 16  # added to a motor's id in its answers
DISABLED, ENABLED = 0x0, 0x1
_ENABLE, _DISABLE, _ZERO, _CLEAR = 0xFC, 0xFD, 0xFE, 0xFB
_WARM_C = 30
_MIT = 1


@dataclass(frozen=True)
class MitCommand:
    """Torque = stiffness * (angle - measured) + damping * (speed - measured) + torque, in rad, s and Nm."""

    angle: float = 0.0
    speed: float = 0.0
    stiffness: float = 0.0
    damping: float = 0.0
    torque: float = 0.0


@dataclass
class DamiaoMotor:
    """``error``: reported instead of the status, and the motor is without torque; ``lasting``: it cannot be cleared."""

    id: int
    type: str
    command: MitCommand = MitCommand()
    enabled: bool = False
    error: int = 0
    lasting: bool = False
    silent: bool = False
    angle: float = 0.0  # measured [rad]
    speed: float = 0.0  # [rad/s]
    torque: float = 0.0  # [Nm]
    commands: int = 0  # MIT frames taken
    registers: dict[int, float] = field(init=False)

    def __post_init__(self) -> None:
        self._scale: MotorConstants = MotorType.get_motor_constants(self.type)
        self.registers = {int(address): 0.0 for address in DMRegAddr}
        self.registers |= {
            DMRegAddr.MST_ID: self.id + REPLY,
            DMRegAddr.ESC_ID: self.id,
            DMRegAddr.CTRL_MODE: _MIT,
            DMRegAddr.GR: MotorType.get_gear_ratio(self.type),
            DMRegAddr.PMAX: self._scale.POSITION_MAX,
            DMRegAddr.VMAX: self._scale.VELOCITY_MAX,
            DMRegAddr.TMAX: self._scale.TORQUE_MAX,
        }

    @property
    def active(self) -> MitCommand:
        """What it does now: nothing while disabled."""
        return self.command if self.enabled and not self.error else MitCommand()

    def taken(self, frame: bytes) -> bytes:
        """The answer to a frame with its id."""
        if frame[:7] == b"\xff" * 7 and frame[7] in (_ENABLE, _DISABLE, _ZERO, _CLEAR):
            self._switch(frame[7])
        else:
            self.command, self.commands = self._decoded(frame), self.commands + 1
        return self._status()

    def register(self, frame: bytes) -> bytes:
        """The answer to a frame on the id that all registers share: motor, 0, what to do, address, value (4)."""
        address = frame[3]
        if frame[2] == CMD_WRITE:
            self.registers[address] = struct.unpack("<f" if _is_float(address) else "<I", frame[4:8])[0]
        value = frame[4:8]
        if frame[2] in (CMD_READ, CMD_WRITE):
            number = self.registers.get(address, 0)
            value = struct.pack("<f", number) if _is_float(address) else struct.pack("<I", int(number))
        return bytes(frame[:4]) + bytes(value)

    def _switch(self, to: int) -> None:
        if to == _ENABLE and not self.error:
            if not self.enabled:
                self.command = MitCommand()
            self.enabled = True
        elif to == _DISABLE:
            self.enabled = False
        elif to == _CLEAR and self.error and not self.lasting:
            self.error, self.enabled = 0, False

    def _decoded(self, frame: bytes) -> MitCommand:
        scale = self._scale
        return MitCommand(
            uint_to_float(frame[0] << 8 | frame[1], scale.POSITION_MIN, scale.POSITION_MAX, 16),
            uint_to_float(frame[2] << 4 | frame[3] >> 4, scale.VELOCITY_MIN, scale.VELOCITY_MAX, 12),
            uint_to_float((frame[3] & 0xF) << 8 | frame[4], scale.KP_MIN, scale.KP_MAX, 12),
            uint_to_float(frame[5] << 4 | frame[6] >> 4, scale.KD_MIN, scale.KD_MAX, 12),
            uint_to_float((frame[6] & 0xF) << 8 | frame[7], scale.TORQUE_MIN, scale.TORQUE_MAX, 12),
        )

    def _status(self) -> bytes:
        scale, status = self._scale, self.error or (ENABLED if self.enabled else DISABLED)
        angle = float_to_uint(self.angle, scale.POSITION_MIN, scale.POSITION_MAX, 16)
        speed = float_to_uint(self.speed, scale.VELOCITY_MIN, scale.VELOCITY_MAX, 12)
        torque = float_to_uint(self.torque, scale.TORQUE_MIN, scale.TORQUE_MAX, 12)
        head = [status << 4 | self.id, angle >> 8, angle & 0xFF, speed >> 4, (speed & 0xF) << 4 | torque >> 8]
        return bytes([*head, torque & 0xFF, _WARM_C, _WARM_C])


def _is_float(address: int) -> bool:
    return address in REG_BY_ADDR and REG_BY_ADDR[address].is_float
