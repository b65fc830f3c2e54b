"""Turns what a user brings (names, objects, callables) into environments, policies and rewards."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import gymnasium

from pld_core import registry
from pld_core.errors import ConfigError, ContractError, UnknownNameError
from pld_core.interfaces import BasePolicy, Environment, EnvironmentFactory, RewardModel

if TYPE_CHECKING:
    from pld_core.vla.callable_policy import Act


def environment_factory(given: Any) -> EnvironmentFactory:
    """A factory from: a task's name, a Gymnasium id, ``module:attribute``, an environment (one lane),
    or a callable: with a parameter ``lanes`` it answers a list of that many environments, else one
    environment a call (as many lanes as asked for)."""
    if isinstance(given, str):
        return environment_factory(_named(given))
    if callable(given) and (isinstance(given, type) or not hasattr(given, "reset")):
        takes_lanes = _takes_lanes(given)
        return lambda lanes: _make_lanes(given, takes_lanes, lanes)
    return lambda lanes: [_adapt(given)]


def _named(name: str) -> Any:
    if ":" in name or registry.knows("tasks", name):
        return registry.load("tasks", name)
    if name in gymnasium.registry:
        return partial(gymnasium.make, name)
    raise UnknownNameError("task", name, registry.names("tasks"), "A Gymnasium id or 'module:attribute' works too.")


def _takes_lanes(make: Callable[..., Any]) -> bool:
    """Whether ``make`` has a parameter ``lanes``; raises ConfigError if it cannot be called without others."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # some built-in callables have no signature
        return False
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if others := [name for name in needed if name != "lanes"]:
        raise ConfigError(
            f"{getattr(make, '__qualname__', make)} needs {', '.join(others)}, which nobody gives. Make environments "
            "with a callable without arguments, or with one parameter `lanes`; bind others with functools.partial."
        )
    return any(p.name == "lanes" for p in parameters)


def _make_lanes(make: Callable[..., Any], takes_lanes: bool, lanes: int) -> list[Environment]:
    made = make(lanes=lanes) if takes_lanes else [make() for _ in range(lanes)]
    if not isinstance(made, Sequence) or not made:
        raise ContractError(
            f"{getattr(make, '__qualname__', make)}(lanes={lanes}) answered {made!r}; a callable with a parameter "
            "`lanes` answers a list of that many environments."
        )
    return [_adapt(environment) for environment in made]


def _adapt(environment: Any) -> Environment:
    if isinstance(environment, Environment):
        return environment
    if hasattr(environment, "action_space"):
        return registry.load("adapters", "gymnasium")(environment)
    raise ContractError(
        f"{type(environment).__name__} is neither a pld_core.interfaces.Environment nor a gymnasium.Env "
        "(no action_space). Give one of these, a callable that makes one, or a task's name."
    )


def base_policy(given: Any) -> BasePolicy:
    """A policy from a BasePolicy, a callable ``observation -> action`` or a name.

    A name may come with an argument, as in ``compact:runs/x/checkpoints/distilled.vla`` or ``ws://gpu-server:8000``.
    """
    from pld_core.vla.callable_policy import CallablePolicy  # imports JAX: three seconds that a robot node saves

    if isinstance(given, str):
        given = _named_policy(given)
    if isinstance(given, type):
        given = given()
    if isinstance(given, BasePolicy):
        return given
    if callable(given):
        name = f"{getattr(given, '__module__', '?')}.{getattr(given, '__qualname__', '?')}"
        return CallablePolicy(cast("Act", given), version=name)
    raise ConfigError(
        f"{type(given).__name__} is no base policy: give an object with infer(observations), "
        "a callable observation -> action [A], or a name."
    )


def _named_policy(given: str) -> Any:
    """As ``_with_argument``; without an argument, a callable that takes no text is the policy itself."""
    name, colon, _ = given.partition(":")
    if name not in registry.names("policies") or not (colon or _takes_text(registry.load("policies", name))):
        return registry.load("policies", given)
    made = _with_argument("policies", given)
    return made() if inspect.isfunction(made) else made


def _takes_text(make: Any) -> bool:
    parameters = list(inspect.signature(make).parameters.values()) if inspect.isfunction(make) else []
    return bool(parameters) and parameters[0].annotation in (str, "str")


def reward_factory(given: Any) -> Callable[[], RewardModel]:
    """A maker of reward models (one per lane) from a name, a factory or a model.

    A name may come with an argument, as in ``classifier:runs/x/success.ckpt``.
    """
    if isinstance(given, str):
        given = _with_argument("rewards", given)
    if hasattr(given, "score") and not isinstance(given, type):
        return lambda: _own_copy(given)
    if callable(given):
        return cast(Callable[[], RewardModel], given)
    raise ConfigError(f"{type(given).__name__} is no reward: give an object with score(step), or a name like 'binary'.")


def _with_argument(kind: registry.Kind, given: str) -> Any:
    """What ``name``, ``name:argument`` or ``module:attribute`` stands for; an installed name comes first."""
    name, colon, argument = given.partition(":")
    if name not in registry.names(kind):
        return registry.load(kind, given)
    make = registry.load(kind, name)
    taken = [p for p in inspect.signature(make).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    needed = [p.name for p in taken if p.default is p.empty]
    if needed and not argument:
        raise ConfigError(f"{name!r} needs its {needed[0]}: give `{name}:<{needed[0]}>`.")
    if colon and not taken:
        raise ConfigError(f"{name!r} takes no argument; give `{name}` instead of {given!r}.")
    return make(argument) if needed or (taken and argument) else make


def _own_copy(reward: RewardModel) -> RewardModel:
    """Episodes run side by side: a model that remembers something must not mix them."""
    try:
        return copy.deepcopy(reward)
    except TypeError as error:
        raise ConfigError(
            f"{type(reward).__name__} cannot be copied for each environment ({error}). Give a callable that makes one."
        ) from error
