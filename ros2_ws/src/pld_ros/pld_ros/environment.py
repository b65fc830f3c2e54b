"""What ROS processes need in their environment, so that nobody has to source anything after `make ros`.

Variables that are set already are kept: where a ROS installation was sourced, it is used as it is.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from pld_core.errors import ConfigError

FASTDDS_PROFILE = Path(__file__).parent / "config" / "fastdds.xml"
_DOMAIN = "ROS_DOMAIN_ID"
LAST_DOMAIN = 101  # above it, the ports of DDS run into those that Linux hands out to anyone


def ros_environment(domain: int | None = None, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: ``base`` (default: this process's) and what is missing in it.

    Raises ConfigError if ``domain`` is out of range.
    """
    environment = dict(os.environ if base is None else base)
    for name, value in _defaults().items():
        environment.setdefault(name, value)
    if domain is not None:
        environment[_DOMAIN] = str(check_domain(domain))
    return environment


def check_domain(domain: int) -> int:
    if not 0 <= domain <= LAST_DOMAIN:
        raise ConfigError(f"The ROS domain must be between 0 and {LAST_DOMAIN}, got {domain}.")
    return domain


def current_domain() -> int:
    """ROS_DOMAIN_ID of this process, 0 where it is not set."""
    text = os.environ.get(_DOMAIN, "") or "0"
    if not text.isdigit():
        raise ConfigError(f"ROS_DOMAIN_ID must be a number between 0 and {LAST_DOMAIN}, got {text!r}.")
    return int(text)


@contextmanager
def own_domain() -> Iterator[int]:
    """A ROS domain that nobody on this machine uses, for this process and its children; as before at the end."""
    before = os.environ.get(_DOMAIN)
    domain = next(filter(_is_free, random.sample(range(1, LAST_DOMAIN + 1), LAST_DOMAIN)), None)
    if domain is None:
        raise ConfigError(f"All ROS domains from 1 to {LAST_DOMAIN} are in use on this machine; end some nodes.")
    os.environ[_DOMAIN] = str(domain)
    try:
        yield domain
    finally:
        os.environ.pop(_DOMAIN)
        if before is not None:
            os.environ[_DOMAIN] = before


def _is_free(domain: int) -> bool:
    """Whether the port is, at which the first participant of a domain is discovered (DDSI-RTPS 2.3, 9.6.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7400 + 250 * domain + 10))
        except OSError:
            return False
    return True


def prepare_this_process(domain: int | None = None) -> None:
    """The same for this process; call it before rclpy.init()."""
    require_messages()
    os.environ.update(ros_environment(domain))


def require_messages() -> None:
    """Raise ConfigError where rclpy or pld_msgs cannot be imported."""
    for package in ("rclpy", "pld_msgs"):
        if find_spec(package) is None:
            raise ConfigError(f"{package} is not installed for {sys.executable}. {_remedy()}")
    try:
        import pld_msgs.msg  # noqa: F401
        import rclpy  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ROS 2 cannot be used from {sys.executable}: {error}. {_remedy()}") from error


def _defaults() -> dict[str, str]:
    jazzy = os.environ.get("ROS_DISTRO") == "jazzy"  # whose Fast DDS has the older name; Kilted's warns of it
    profile = "FASTRTPS_DEFAULT_PROFILES_FILE" if jazzy else "FASTDDS_DEFAULT_PROFILES_FILE"
    return {
        "AMENT_PREFIX_PATH": sys.prefix,
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        profile: str(FASTDDS_PROFILE),
    }


def _remedy() -> str:
    distribution = os.environ.get("ROS_DISTRO")
    if distribution:
        return (
            f"ROS 2 {distribution} is sourced: run `colcon build --base-paths . ros2_ws/src`, then "
            "`. install/setup.bash`, with the Python of that installation."
        )
    return "Run `make ros`."
