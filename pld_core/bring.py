"""Turns what a user brings (names, objects, callables) into environments, policies and rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from pld_core import registry
from pld_core.errors import ConfigError, ContractError
from pld_core.interfaces import BasePolicy, Environment, EnvironmentFactory, RewardModel
from pld_core.vla.callable_policy import Act, CallablePolicy


def environment_factory(given: Any) -> EnvironmentFactory:
    """A factory from: a task's name, ``module:factory``, a Gymnasium id, an environment (one lane),
    or a callable without arguments that makes one (as many lanes as asked for)."""
    if isinstance(given, str):
        return registry.load("tasks", given)
    if isinstance(given, type):
        return lambda lanes: [_adapt(given()) for _ in range(lanes)]
    if callable(given) and not hasattr(given, "reset"):
        return lambda lanes: _make_lanes(given, lanes)
    return lambda lanes: [_adapt(given)]


def _make_lanes(make: Callable[..., Any], lanes: int) -> Sequence[Environment]:
    """A registered factory answers a list for ``make(lanes)``; a plain one answers one environment."""
    takes_lanes = bool(getattr(make, "__code__", None) and make.__code__.co_argcount)
    made = make(lanes) if takes_lanes else [make() for _ in range(lanes)]
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
    """A policy from a BasePolicy, a callable ``observation -> action`` or ``module:attribute``."""
    if isinstance(given, str):
        given = registry.load("policies", given)
    if isinstance(given, type):
        given = given()
    if isinstance(given, BasePolicy):
        return given
    if callable(given):
        name = f"{getattr(given, '__module__', '?')}.{getattr(given, '__qualname__', '?')}"
        return CallablePolicy(cast(Act, given), version=name)
    raise ConfigError(
        f"{type(given).__name__} is no base policy: give an object with infer(observations), "
        "a callable observation -> action [A], or a name."
    )


def reward_factory(given: Any) -> Callable[[], RewardModel]:
    """A maker of reward models (one per lane) from a name, a factory or a model."""
    if isinstance(given, str):
        given = registry.load("rewards", given)
    if hasattr(given, "score") and not isinstance(given, type):
        return lambda: given
    if callable(given):
        return cast(Callable[[], RewardModel], given)
    raise ConfigError(f"{type(given).__name__} is no reward: give an object with score(step), or a name like 'binary'.")
