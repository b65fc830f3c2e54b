"""Served policies by name: ``ws://host:port`` for `pld serve`, ``openpi:NAME`` and ``openvla:NAME`` for others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pld_core.config import config_root
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.strict import build
from pld_core.vla.remote.key_map import KeyMap, Keys, OwnKeys
from pld_core.vla.remote.openvla import OpenVLA
from pld_core.vla.remote.remote_vla import RemoteVLA
from pld_core.yaml_file import read_yaml

OWN = "pld"


@dataclass(frozen=True)
class PolicySettings:
    """A file of robot_configs/policies: where a policy is served, and what its names and numbers mean."""

    keys: KeyMap
    server: str = "ws://localhost:8000"
    action_horizon: int | None = None  # actions of a chunk; needed where the server's metadata do not say
    version: str | None = None  # of its weights, stored with every episode; null: a hash of what the server says
    deadline_s: float = 30.0  # for an answer, reconnections included
    connect_s: float = 60.0
    api_key_variable: str | None = None  # environment variable that holds the key, where the server wants one


def policy_names() -> list[str]:
    return sorted(path.stem for path in (config_root() / "policies").glob("*.yaml"))


def load_settings(name: str) -> PolicySettings:
    """Of a policy that ships, or from a path that ends in .yaml. Connects nothing."""
    if not name.endswith((".yaml", ".yml")) and name not in policy_names():
        raise UnknownNameError("policy file", name, policy_names(), "A path to your own .yaml file works too.")
    path = Path(name) if name.endswith((".yaml", ".yml")) else config_root() / "policies" / f"{name}.yaml"
    return build(PolicySettings, read_yaml(path), source=str(path))


def load_keys(name: str) -> Keys:
    """``pld``: observations as they are; else those of a policy file."""
    return OwnKeys() if name == OWN else load_settings(name).keys


def openpi(given: str) -> RemoteVLA:
    """``openpi:NAME``, ``openpi:FILE.yaml``, and either with ``@ws://host:port`` behind it."""
    settings, asked = _asked(given)
    return RemoteVLA(action_horizon=settings.action_horizon, **asked)


def openvla(given: str) -> OpenVLA:
    """``openvla:NAME``, ``openvla:FILE.yaml``, and either with ``@http://host:port`` behind it."""
    settings, asked = _asked(given)
    if settings.action_horizon is None:
        raise ConfigError(f"{given} does not give its action_horizon: 1 for OpenVLA, as many as a chunk has for OFT.")
    return OpenVLA(action_horizon=settings.action_horizon, **asked)


def _asked(given: str) -> tuple[PolicySettings, dict[str, Any]]:
    """The settings of ``NAME@URL``, and what every client of a server takes from them."""
    name, _, server = given.partition("@")
    settings = load_settings(name)
    asked: dict[str, Any] = {name: getattr(settings, name) for name in ("keys", "version", "deadline_s", "connect_s")}
    return settings, {"url": server or settings.server, "api_key": _api_key(settings.api_key_variable), **asked}


def ws(address: str) -> RemoteVLA:
    """``ws://host:port``: a server that takes observations as they are, such as `pld serve`."""
    return RemoteVLA(f"ws:{address}")


def wss(address: str) -> RemoteVLA:
    return RemoteVLA(f"wss:{address}")


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable not in os.environ:
        raise ConfigError(f"The policy server wants a key from the environment variable {variable}, which is not set.")
    return os.environ[variable]
