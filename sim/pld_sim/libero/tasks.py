"""The tasks by name, and the factories behind the ``pld.tasks`` entry points."""

from __future__ import annotations

import os
from typing import Any

from pld_core.errors import ConfigError
from pld_sim.libero.environment import LiberoEnvironment
from pld_sim.libero.suites import IMAGE_SIZES, Order, parse

_TRUTHS = {"true": True, "false": False}


def make_environments(
    task: str, lanes: int = 1, *, image_size: int = 64, image_every: int = 1, reflections: bool = True
) -> list[LiberoEnvironment]:
    """``lanes`` environments of ``task`` (``libero_object/0``), each in a process of its own of about 2 GB.

    image_size: pixels per side of both cameras; up to 128 the mean over blocks of the official 128, 256 is
    rendered as such. image_every: see ``LiberoEnvironment``. reflections: draw mirror images on shiny tables,
    as official pictures have them; without, spatial tasks render twice as fast and pixels differ by 0.9 of 255 on
    average. Raises ConfigError where the extra is not installed.
    """
    suite, index = parse(task)
    if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
        raise ConfigError(f"lanes was given {lanes!r}; valid is an integer of at least 1.")
    if image_size not in IMAGE_SIZES:
        raise ConfigError(f"image_size was given {image_size!r}; valid are {', '.join(map(str, IMAGE_SIZES))}.")
    # Threads shorten one lane's picture by a seventh and cost a seventh more in all: for idle cores only.
    order = Order(suite, index, image_size, bool(reflections), draw_threads=lanes < (os.cpu_count() or 1))
    made: list[LiberoEnvironment] = []
    try:
        made += [LiberoEnvironment(order, image_every) for _ in range(lanes)]
        for environment in made:  # all processes start at once, and are waited for together
            environment.wait_until_ready()
    except BaseException:
        for environment in made:
            environment.close()
        raise
    return made


def _member(suite: str, member: str, lanes: int) -> list[LiberoEnvironment]:
    """member: ``2``, or with options of ``make_environments``, ``2?image_size=256&reflections=false``."""
    number, _, query = member.partition("?")
    return make_environments(f"{suite}/{number}", lanes, **dict(map(_option, query.split("&") if query else ())))


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name == "image_size" and value.isdigit():
        return name, int(value)
    if name == "reflections" and value in _TRUTHS:
        return name, _TRUTHS[value]
    raise ConfigError(
        f"A LIBERO task was given the option {text!r}; valid are image_size=N and reflections=true or false, as in "
        "libero_object/2?image_size=256&reflections=false."
    )


def libero_spatial(member: str, lanes: int = 1) -> list[LiberoEnvironment]:
    """The same bowl, told apart by where it stands; 10 tasks."""
    return _member("libero_spatial", member, lanes)


def libero_object(member: str, lanes: int = 1) -> list[LiberoEnvironment]:
    """Put one of many groceries into the basket; 10 tasks."""
    return _member("libero_object", member, lanes)


def libero_goal(member: str, lanes: int = 1) -> list[LiberoEnvironment]:
    """One scene, another goal each; 10 tasks."""
    return _member("libero_goal", member, lanes)


def libero_10(member: str, lanes: int = 1) -> list[LiberoEnvironment]:
    """Long tasks of two goals; also called LIBERO-Long; 10 tasks."""
    return _member("libero_10", member, lanes)


def libero_90(member: str, lanes: int = 1) -> list[LiberoEnvironment]:
    """Ninety short tasks in kitchens, living rooms and studies."""
    return _member("libero_90", member, lanes)
