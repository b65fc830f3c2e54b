"""Find tasks, robots, drivers, policies and rewards by name through Python entry points.

A package of yours adds a name in its own ``pyproject.toml``, without touching this project::

    [project.entry-points."pld.tasks"]
    my_task = "my_package.envs:make_my_task"

``module:attribute`` works in place of a name everywhere. A name that ends in ``/*`` is a family: ``suite/*`` serves
``suite/3`` too, and its callable gets what stands behind the slash as its first argument.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import types
from functools import partial
from typing import Any, Literal

from pld_core.errors import ConfigError, UnknownNameError

Kind = Literal[
    "tasks", "robots", "drivers", "policies", "rewards", "adapters", "runners", "cameras", "commands", "scenes"
]

_SINGULAR = {
    "tasks": "task",
    "robots": "robot",
    "drivers": "robot driver",
    "policies": "policy",
    "rewards": "reward",
    "adapters": "adapter",
    "runners": "runner",
    "cameras": "camera driver",
    "scenes": "scene",
    "commands": "command of another package",
}
_EXTRAS = {
    "rclpy": "ros",
    "rosbags": "bags",
    "franky": "franka",
    "i2rt": "yam",
    "mink": "yam",
    "can": "yam",
    "pyrealsense2": "realsense",
    "cv2": "opencv",
    "libero": "libero",
    "robosuite": "libero",
    "bddl": "libero",
    "torch": "torch",
    "transformers": "torch",
    "peft": "torch",
    "ray": "ray",
}


def names(kind: Kind) -> list[str]:
    """All installed names of a kind, sorted; a family as ``suite/*``."""
    return sorted(_entry_points(kind))


def knows(kind: Kind, name: str) -> bool:
    """Whether ``name`` is installed, by itself or as a member of a family."""
    found = _entry_points(kind)
    return name in found or _family(name) in found


def load(kind: Kind, name: str) -> Any:
    """The object behind ``name``; imports its package only now."""
    if ":" in name:
        return _import(kind, name, name)
    found = _entry_points(kind)
    if name in found:
        return _import(kind, name, found[name].value)
    if (family := _family(name)) in found:
        return partial(_import(kind, name, found[family].value), name.partition("/")[2])
    raise UnknownNameError(_SINGULAR[kind], name, found, "A string 'module:attribute' works too.")


def import_hint(error: ImportError) -> str:
    """What to install for a module that is missing, as the end of an error message."""
    module = (error.name or "").partition(".")[0]
    if module in _EXTRAS:
        return (
            f"Install it: pip install 'pld[{_EXTRAS[module]}]' (in a checkout: pip install -e '.[{_EXTRAS[module]}]')."
        )
    if module in ("pld_core", "pld_sim", "pld_ros", "robot_configs"):
        return "The installation is incomplete: run `make setup` in the checkout, or reinstall pld."
    return f"Install the package that provides {module!r}." if module else "Run `pld doctor` for the whole picture."


def _family(name: str) -> str:
    suite, _, member = name.partition("/")
    return f"{suite}/*" if member else ""


def _entry_points(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"pld.{kind}")}


def _import(kind: Kind, name: str, target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    label = f"{_SINGULAR[kind]} {name!r}"
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"Cannot load {label} ({target}): {error}. {import_hint(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise UnknownNameError(f"attribute of {module_name} for {label}:", part, public)
        found = getattr(found, part)
    if isinstance(found, types.ModuleType):
        raise ConfigError(f"{label} points to the module {target!r}; name a function in it, as in 'module:function'.")
    return found
