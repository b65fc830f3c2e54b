"""Which values a station's settings may have: everything is refused at load, before an arm hears of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pld_core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from pld_core.stations import RobotConfig

POSITIVE = (
    "rate_hz", "translation_m", "rotation_rad", "gripper_open_m", "max_speed_m_s", "max_speed_rad_s",
    "max_command_age_ms",
)  # fmt: skip
POSITIVE_OF_CAMERAS = ("width", "height", "fps", "policy_size", "max_age_ms")
NOT_NEGATIVE_OF_CAMERAS = ("exposure_us",)
FINITE = ("workspace_m", "keep_out_m", "home_joints_rad")  # NaN is beyond no limit, and within none


def check_numbers(robot: RobotConfig, source: str) -> None:
    """Raises ConfigError where a number of the station or of its cameras is out of range or none."""
    whose = f"of robot {source}"
    for key in FINITE:
        if not all(map(math.isfinite, _numbers(getattr(robot, key)))):
            raise ConfigError(f"{key} {whose} must be finite numbers, got {getattr(robot, key)}.")
    for key in POSITIVE:
        _check(robot, key, whose, lambda value: value > 0, "a number greater than 0")
    for name, camera in robot.cameras.items():
        whose = f"of camera {name} of robot {source}"
        for key in POSITIVE_OF_CAMERAS:
            _check(camera, key, whose, lambda value: value > 0, "a number greater than 0")
        for key in NOT_NEGATIVE_OF_CAMERAS:
            _check(camera, key, whose, lambda value: value >= 0, "0 (automatic) or more")


def check_twin(robot: RobotConfig, source: str, names: Callable[[], Iterable[str]]) -> None:
    """Raises ConfigError where ``simulated_twin`` is no station; ``names``: those that there are.

    The twin is looked for and not loaded: stations that name each other would never end.
    """
    twin = robot.simulated_twin
    if not twin or ":" in twin:  # a module's function is known once it is called
        return
    if twin.endswith((".yaml", ".yml")):
        if not Path(twin).is_file():
            raise ConfigError(f"simulated_twin of robot {source} is {twin}, and there is no such file. Correct it.")
    elif twin not in (known := list(names())):
        raise UnknownNameError(f"simulated_twin of robot {source}:", twin, known, "A path to a .yaml file works too.")


def _check(settings: Any, key: str, whose: str, fits: Callable[[float], bool], rule: str) -> None:
    value = getattr(settings, key)
    if not (math.isfinite(value) and fits(value)):
        raise ConfigError(f"{key} {whose} must be {rule}, got {value!r}.")


def _numbers(value: Any) -> Iterator[float]:
    """Of nested tuples; none of None."""
    if isinstance(value, tuple):
        for part in value:
            yield from _numbers(part)
    elif value is not None:
        yield value
