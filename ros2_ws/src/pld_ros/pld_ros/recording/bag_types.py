"""The message types that bags hold, read from the .msg files themselves, and QoS as bags write it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from pld_core.errors import ConfigError
from pld_ros.recording.mcap_file import Channel

PACKAGE = "pld_msgs"
_FOREVER = {"sec": 9223372036, "nsec": 854775807}


@cache
def typestore() -> Typestore:
    """ROS 2's own types and those of pld_msgs."""
    store = get_typestore(Stores.ROS2_KILTED)
    types: dict[str, Any] = {}
    for path in sorted(message_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


@cache
def definition(kind: str) -> str:
    """The .msg text of a type, followed by those of all types in it."""
    return typestore().generate_msgdef(kind, ros_version=2)[0]


@cache
def type_hash(kind: str) -> str:
    """As REP 2011 has it: equal for equal definitions."""
    return typestore().hash_rihs01(kind)


def message_folder() -> Path:
    """Where the .msg files of pld_msgs are: installed, or in the checkout. Raises ConfigError."""
    looked = list(_folders())
    for folder in looked:
        if (folder / "PolicyStep.msg").exists():
            return folder
    raise ConfigError(
        f"The .msg files of {PACKAGE} were not found; looked in {', '.join(map(str, looked))}. Run `make ros`, or "
        "source the workspace's setup.bash."
    )


@dataclass(frozen=True)
class Topic:
    """A topic of a bag. type: as ``pkg/msg/Name``; qos: see ``qos_profile``."""

    name: str
    type: str
    qos: dict[str, Any] | None = None

    @property
    def profiles(self) -> list[dict[str, Any]]:
        return [] if self.qos is None else [self.qos]

    def channel(self) -> Channel:
        return Channel(self.name, self.type, definition(self.type), yaml_text(self.profiles))


def qos_profile(profile: Any) -> dict[str, Any]:
    """What a publisher offered (an rclpy QoSProfile), in the words of metadata.yaml."""
    return {
        "history": _word(profile.history, "keep_last"),
        "depth": int(profile.depth),
        "reliability": _word(profile.reliability, "reliable"),
        "durability": _word(profile.durability, "volatile"),
        "deadline": _FOREVER,
        "lifespan": _FOREVER,
        "liveliness": "automatic",
        "liveliness_lease_duration": _FOREVER,
        "avoid_ros_namespace_conventions": False,
    }


def yaml_text(value: Any) -> str:
    """Without anchors, which not every reader follows."""
    return yaml.dump(value, Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _word(policy: Any, default: str) -> str:
    name = policy.name.lower()
    return default if name in ("system_default", "unknown", "best_available") else name


def _folders() -> Iterator[Path]:
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        yield Path(prefix) / "share" / PACKAGE / "msg"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin:  # <prefix>/lib/python3.x/site-packages/pld_msgs/__init__.py
        yield Path(spec.origin).parents[4] / "share" / PACKAGE / "msg"
    yield Path(__file__).resolve().parents[3] / PACKAGE / "msg"
