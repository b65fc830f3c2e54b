"""Robot stations and tasks as YAML: which arm, which cameras, which limits, which instruction.

``robot_configs/robots/<name>.yaml`` and ``robot_configs/tasks/<name>.yaml``; another package adds a
robot with an entry point in the group ``pld.robots`` that names a function returning a RobotConfig.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pld_core import registry
from pld_core.config import TrainConfig, config_root, read_yaml
from pld_core.errors import ConfigError, RobotUnavailableError, UnknownNameError
from pld_core.station_rules import check_numbers, check_twin
from pld_core.strict import build
from pld_core.types import ActionSpec, ObservationSpec

NO_ROBOT = "none"  # of tasks that bring whatever they need
Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class CameraConfig:
    """One camera of a station and the picture that policies get from it."""

    driver: str  # simulated, realsense, opencv, or module:attribute
    serial: str = ""  # of the device (opencv: index, path or URL); empty: the only one connected
    recording: str = ""  # path of a recording (realsense: .db3, opencv: a video) that stands in for the device
    width: int = 640  # pixels, as captured
    height: int = 480
    fps: int = 30
    exposure_us: int = 0  # microseconds; 0: automatic
    crop: tuple[int, int, int, int] | None = None  # left, top, width, height in captured pixels; null: all of it
    policy_size: int = 64  # pixels, height and width of what policies see
    max_age_ms: float = 150.0  # an older frame voids the episode


@dataclass(frozen=True)
class RobotConfig:
    """A station: one arm with its gripper and cameras."""

    name: str
    driver: str  # simulated, franka, yam, or module:attribute of a RobotDriver
    proprio: tuple[str, ...]  # names of the proprioception entries, in order
    cameras: dict[str, CameraConfig]
    address: str = ""  # host name or CAN channel
    rate_hz: float = 20.0  # control ticks per second
    translation_m: float = 0.01  # metres per tick at |a| = 1
    rotation_rad: float = 0.08  # radians per tick at |a| = 1
    frame: str = "base"  # frame of actions, workspace and poses
    workspace_m: Bounds | None = None  # lowest and highest xyz of the tool centre, in frame
    keep_out_m: tuple[Bounds, ...] = ()  # boxes that the tool centre must not enter, in frame
    max_tilt_rad: float | None = None  # largest angle between the tool and straight down; null: any
    gripper_open_m: float = 0.08  # distance of the fingers at gripper = +1
    max_speed_m_s: float = 0.25  # of a real arm's tool centre, in any direction; faster commands are shortened
    max_speed_rad_s: float = 1.6  # likewise, of its turning
    home_joints_rad: tuple[float, ...] = ()
    max_command_age_ms: float = 250.0  # since what it was decided on was seen; an older command is refused
    driver_options: dict[str, Any] = field(default_factory=dict)  # passed to the driver as they are
    simulated_twin: str = ""  # the station to use where this arm is not connected
    urdf: str = ""  # shape of the arm for RViz: a path, or <Python package>:<path in it>

    @property
    def is_simulated(self) -> bool:
        return self.driver == "simulated"

    @property
    def observation_spec(self) -> ObservationSpec:
        """What policies see of it."""
        cameras = {name: (c.policy_size, c.policy_size, 3) for name, c in self.cameras.items()}
        return ObservationSpec(cameras, len(self.proprio), self.proprio)

    @property
    def action_spec(self) -> ActionSpec:
        return ActionSpec(7, self.translation_m, self.rotation_rad, self.frame, self.rate_hz)


@dataclass(frozen=True)
class TaskConfig:
    """What the robot is told to do, and for how long it may try."""

    name: str
    instruction: str
    robot: str  # the station it is meant for
    max_steps: int  # ticks until the episode is truncated
    kind: Literal["simulated", "real", "both"] = "both"


def robot_names() -> list[str]:
    return sorted({*_stems("robots"), *registry.names("robots")})


def task_names() -> list[str]:
    return sorted({*_stems("tasks"), *registry.names("tasks")})


def load_robot(name: str) -> RobotConfig:
    """A station by name, or from a path that ends in .yaml. Connects nothing."""
    if name.endswith((".yaml", ".yml")):
        return _checked(_read(RobotConfig, Path(name)), name)
    if name in _stems("robots"):
        return _checked(_read(RobotConfig, config_root() / "robots" / f"{name}.yaml"), name)
    if ":" not in name and name not in registry.names("robots"):
        raise UnknownNameError("robot", name, robot_names(), "A path to your own .yaml file works too.")
    made = registry.load("robots", name)()
    if not isinstance(made, RobotConfig):
        raise ConfigError(f"The robot {name!r} must be a function that returns a RobotConfig, it returned {made!r}.")
    return _checked(made, name)


def load_task(name: str) -> TaskConfig:
    """A task's settings by name, or from a path that ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        return _read(TaskConfig, Path(name))
    if name not in _stems("tasks"):
        raise UnknownNameError("task", name, _stems("tasks"), "A path to your own .yaml file works too.")
    return _read(TaskConfig, config_root() / "tasks" / f"{name}.yaml")


def for_task(config: TrainConfig, task: str) -> TrainConfig:
    """The settings for another task than theirs, on the station that it is made for."""
    return config if task == config.task else dataclasses.replace(config, task=task, robot=_station_of(task))


def check_station(robot: str, task: str, runner: str = "local") -> None:
    """Refuse a robot that does not exist, that cannot be reached, or that the task is not made for.

    Raises UnknownNameError, RobotUnavailableError or ConfigError, in this order.
    """
    if robot == NO_ROBOT:
        return
    station = load_robot(robot)
    if not station.is_simulated and runner == "local":
        twin = station.simulated_twin
        raise RobotUnavailableError(
            f"No arm answers as {station.name!r} ({station.driver} at {station.address or 'no address'}): real "
            "arms are driven by their nodes, with --runner ros."
            + (f" Use the simulated twin, {twin} or {twin.upper()}()." if twin else "")
        )
    wanted = _station_of(task)
    if wanted not in (NO_ROBOT, station.name):
        raise ConfigError(f"Task {task!r} is made for robot {wanted!r}, not for {station.name!r}.")


def _station_of(task: str) -> str:
    return load_task(task).robot if task in _stems("tasks") else NO_ROBOT


def _stems(kind: str) -> list[str]:
    return sorted(path.stem for path in (config_root() / kind).glob("*.yaml"))


def _read(cls: type[Any], path: Path) -> Any:
    return build(cls, {"name": path.stem, **read_yaml(path)}, source=str(path.name))


def _checked(robot: RobotConfig, source: str) -> RobotConfig:
    check_numbers(robot, source)
    check_twin(robot, source, robot_names)
    for step, unit in (("translation_m", "m_s"), ("rotation_rad", "rad_s")):
        speed, most = getattr(robot, step) * robot.rate_hz, getattr(robot, f"max_speed_{unit}")
        if speed > most + 1e-9:
            raise ConfigError(
                f"robot {source}: {step} * rate_hz = {speed:.3g} {unit.replace('_', '/')} exceeds "
                f"max_speed_{unit} = {most:.3g}; lower {step}."
            )
    if robot.workspace_m is not None and any(low >= high for low, high in zip(*robot.workspace_m)):
        raise ConfigError(f"workspace_m of robot {source} must be [lowest xyz, highest xyz], got {robot.workspace_m}.")
    for name, camera in robot.cameras.items():
        if camera.crop is not None and not _lies_within(camera):
            raise ConfigError(
                f"crop of camera {name} of robot {source} is {camera.crop}: left, top, width, height must lie within "
                f"{camera.width} x {camera.height} pixels."
            )
    for box in robot.keep_out_m:
        if any(low >= high for low, high in zip(*box)):
            raise ConfigError(f"keep_out_m of robot {source} must be boxes [lowest xyz, highest xyz], got {box}.")
    if robot.max_tilt_rad is not None and not 0 < robot.max_tilt_rad <= math.pi:
        raise ConfigError(f"max_tilt_rad of robot {source} must be in (0, pi] or null, got {robot.max_tilt_rad}.")
    if not robot.is_simulated and robot.workspace_m is None:
        raise ConfigError(f"robot {source} is real and has no workspace_m: a real arm is never driven without a box.")
    return dataclasses.replace(robot, name=robot.name or Path(source).stem)


def _lies_within(camera: CameraConfig) -> bool:
    left, top, width, height = camera.crop  # type: ignore[misc]  # there is one
    inside = left + width <= camera.width and top + height <= camera.height
    return min(left, top) >= 0 and min(width, height) > 0 and inside
