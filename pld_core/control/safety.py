"""The one place that every command passes before it reaches an environment or a robot."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pld_core.control import boxes, rotations
from pld_core.errors import ContractError, NonFiniteError
from pld_core.stations import RobotConfig
from pld_core.types import ActionSpec

_HALVINGS = 20  # of a turn that is shortened: to a millionth of it
_ROUNDING = 1e-6  # of float32: what was slowed down once is not slowed down again


@dataclass(frozen=True)
class SafetyLimits:
    """Step size, speed, workspace, keep-out and orientation limits for normalised end-effector commands.

    workspace: ``[2, 3]`` lowest and highest end-effector position in metres, in the action's frame,
    or None where the environment is not an arm. A command that would leave the box is shortened so
    that it ends on the box's face; one that starts outside may only move inwards.
    keep_out: ``[K, 2, 3]`` boxes that the end effector must not enter; a command that would is shortened so that
    it ends on the face, one that starts inside may only move towards the nearest way out.
    max_tilt_rad: largest angle between the tool and straight down; a turn beyond it is shortened, one that
    starts beyond it may only turn back.
    max_speed_m_s, max_speed_rad_s: of the end effector, in any direction, by commands at the action's rate; a faster
    command is shortened as a whole. None: each axis may go as far as |a| = 1 leads.
    """

    action_spec: ActionSpec
    workspace: np.ndarray | None = None
    keep_out: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 3)))
    max_tilt_rad: float | None = None
    max_speed_m_s: float | None = None
    max_speed_rad_s: float | None = None

    def slowed(self, action: np.ndarray) -> np.ndarray:
        """A command no faster than allowed, ``[A]``; to the last bit the given one where that is none too fast."""
        spec, slow = self.action_spec, action
        for part, unit, most in (
            (slice(0, 3), spec.translation_m, self.max_speed_m_s),
            (slice(3, 6), spec.rotation_rad, self.max_speed_rad_s),
        ):
            if most is None:
                continue
            speed = float(np.linalg.norm(action[part].astype(np.float64))) * unit * spec.rate_hz
            if speed > most * (1.0 + _ROUNDING):
                slow = slow.copy() if slow is action else slow
                slow[part] *= most / speed
        return slow

    def apply(
        self, action: np.ndarray, position: np.ndarray | None = None, rotvec: np.ndarray | None = None
    ) -> np.ndarray:
        """The admissible command nearest to ``action``, float32 ``[A]`` in [-1, 1].

        position: end-effector position ``[3]`` in metres; required with a workspace. rotvec: ``[3]`` from straight
        down, in the action's frame; required with ``max_tilt_rad``.
        Raises ContractError on a wrong size and NonFiniteError on NaN or infinity in any of them.
        """
        if action.shape != (self.action_spec.dim,):
            raise ContractError(
                f"A command has shape {action.shape}; this robot takes ({self.action_spec.dim},). "
                "Check the policy's action size against the environment's action_spec."
            )
        if not np.isfinite(action).all():
            raise NonFiniteError(f"A command holds NaN or infinity: {action.tolist()}. Nothing was sent.")
        for what, where in (("position", position), ("orientation", rotvec)):
            if where is not None and not np.isfinite(where).all():  # every comparison with it would let all pass
                raise NonFiniteError(f"The measured {what} holds NaN or infinity: {where.tolist()}. Nothing was sent.")
        safe = self.slowed(np.clip(action, -1.0, 1.0).astype(np.float32))
        if position is not None:
            if self.workspace is not None:
                safe[:3] = self._inside(safe[:3], position)
            for box in self.keep_out:
                safe[:3] = self._outside(safe[:3], position, box)
        if self.max_tilt_rad is not None and rotvec is not None:
            safe[3:6] = self._upright(safe[3:6], rotvec, self.max_tilt_rad)
        return safe

    def _inside(self, translation: np.ndarray, position: np.ndarray) -> np.ndarray:
        low, high = (np.asarray(bound) - position for bound in self.workspace)  # type: ignore[union-attr]
        scale = self.action_spec.translation_m
        # Outside the box one bound has the wrong sign; zero then forbids moving further out.
        moved = translation * scale
        allowed = np.clip(moved, np.minimum(low, 0.0), np.maximum(high, 0.0))
        return np.where(allowed == moved, translation, allowed / scale)  # unchanged to the last bit where it may pass

    def _outside(self, translation: np.ndarray, position: np.ndarray, box: np.ndarray) -> np.ndarray:
        low, high = box
        moved = translation.astype(np.float64) * self.action_spec.translation_m
        if boxes.is_in(position, low, high):
            depths = np.concatenate([position - low, high - position])
            nearest = int(depths.argmin())
            axis, outwards = nearest % 3, 1.0 if nearest >= 3 else -1.0
            out = np.zeros(3)
            out[axis] = outwards * max(0.0, outwards * moved[axis])
            return (out / self.action_spec.translation_m).astype(np.float32)
        share = boxes.share_until(position, moved, low, high)
        return translation if share >= 1.0 else (translation * max(0.0, share - 1e-6)).astype(np.float32)

    def _upright(self, turn: np.ndarray, rotvec: np.ndarray, most: float) -> np.ndarray:
        start = rotations.quat_from_rotvec(rotvec)

        def tilted(share: float) -> float:
            step = rotations.quat_from_rotvec(share * self.action_spec.rotation_rad * turn.astype(np.float64))
            return rotations.tilt(rotations.rotvec_of(rotations.multiply(step, start)))

        most = max(most, rotations.tilt(rotvec))
        if tilted(1.0) <= most:
            return turn
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if tilted(middle) <= most else (low, middle)
        return (low * turn).astype(np.float32)


def limits_of(station: RobotConfig) -> SafetyLimits:
    """Those of a station's file. A simulated arm has no limits of speed: it is what the task is without a station."""
    return SafetyLimits(
        station.action_spec,
        None if station.workspace_m is None else np.array(station.workspace_m),
        np.array(station.keep_out_m, np.float64).reshape(-1, 2, 3),
        station.max_tilt_rad,
        None if station.is_simulated else station.max_speed_m_s,
        None if station.is_simulated else station.max_speed_rad_s,
    )
