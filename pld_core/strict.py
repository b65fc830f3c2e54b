"""Build frozen dataclasses from plain mappings, refusing what does not fit.

Every complaint names the full dotted key, what was given and what is valid, because a setting that
is silently ignored costs somebody an afternoon.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pld_core.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def build(template: type[T] | T, values: Mapping[str, Any], path: str = "", source: str = "") -> T:
    """A dataclass with ``values`` (nested mappings) over the defaults, or over an instance.

    path: dotted prefix for messages; source: the file or command line that the values came from.
    """
    cls = template if isinstance(template, type) else type(template)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{_where(path, source)} must be a mapping of settings, got {values!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise _unknown(dotted, str(key), path, fields, source)
        current = None if isinstance(template, type) else getattr(template, key)
        given[key] = convert(hints[key], value, dotted, source, current)
    missing = [name for name, f in fields.items() if isinstance(template, type) and _required(f) and name not in given]
    if missing:
        raise ConfigError(f"{_where(path, source)} lacks the setting(s) {', '.join(missing)}.")
    return cls(**given) if isinstance(template, type) else dataclasses.replace(template, **given)  # type: ignore[type-var]


def convert(hint: Any, value: Any, path: str, source: str = "", current: Any = None) -> Any:
    """``value`` as the type ``hint``; raises ConfigError when it is something else."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        return build(current if current is not None else typing.cast(type, hint), value, path, source)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, arguments, value, path, source)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            raise UnknownNameError(f"value of {_where(path, source)}:", value, [str(a) for a in arguments])
        raise _wrong(hint, value, path, source)
    if origin in (tuple, list, Sequence):
        return _convert_sequence(hint, arguments, value, path, source)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, path, source)
        return {convert(arguments[0], k, path, source): convert(arguments[1], v, f"{path}.{k}", source)
                for k, v in value.items()}  # fmt: skip
    return _convert_scalar(hint, value, path, source)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"learn": {"steps": 3}}`` as ``{"learn.steps": 3}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        flat.update(flatten(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value})
    return flat


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"learn.steps": 3}`` as ``{"learn": {"steps": 3}}``; keys without dots stay."""
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *parents, leaf = dotted.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = value
    return nested


def known_keys(template: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass type or instance, sections included."""
    cls = template if isinstance(template, type) else type(template)
    hints, keys = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        keys.append(f"{prefix}{field.name}")
        if dataclasses.is_dataclass(hints[field.name]):
            keys += known_keys(hints[field.name], f"{prefix}{field.name}.")
    return keys


def _convert_union(hint: Any, arguments: tuple[Any, ...], value: Any, path: str, source: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [a for a in arguments if a is not type(None)]
    if len(options) == 1:
        return convert(options[0], value, path, source)
    for option in options:
        try:
            return convert(option, value, path, source)
        except ConfigError:
            continue
    raise _wrong(hint, value, path, source)


def _convert_sequence(hint: Any, arguments: tuple[Any, ...], value: Any, path: str, source: str) -> Any:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise _wrong(hint, value, path, source)
    if typing.get_origin(hint) is not tuple or arguments[-1] is Ellipsis:
        types_ = [arguments[0]] * len(value)
    elif len(arguments) != len(value):
        raise ConfigError(f"{_where(path, source)} needs {len(arguments)} values, got {len(value)}: {value!r}.")
    else:
        types_ = list(arguments)
    items = [convert(t, v, f"{path}[{i}]", source) for i, (t, v) in enumerate(zip(types_, value))]
    return tuple(items) if typing.get_origin(hint) is tuple else items


def _convert_scalar(hint: Any, value: Any, path: str, source: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:  # YAML 1.1 reads 3e-4 as text; a person means the number
            return float(value)
        except ValueError:
            raise _wrong(hint, value, path, source) from None
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if isinstance(value, bool) and hint is not bool:
        raise _wrong(hint, value, path, source)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _wrong(hint, value, path, source)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def build_from_query(cls: type[T], argument: str) -> T:
    """A dataclass with a ``path``, of the text ``PATH?name=value&...`` behind a policy's name."""
    path, _, query = argument.partition("?")
    hints, options = typing.get_type_hints(cls), dict(parse_qsl(query, keep_blank_values=True))
    numbers = {name for name in options if int in (typing.get_args(hints.get(name)) or (hints.get(name),))}
    given = {name: int(text) if name in numbers and text.isdigit() else text for name, text in options.items()}
    return build(cls, {"path": path, **given}, source=f"the policy {argument!r}")


def _where(path: str, source: str) -> str:
    return f"{path or 'the top level'}{f' in {source}' if source else ''}"


def _unknown(dotted: str, key: str, path: str, fields: Mapping[str, Any], source: str) -> UnknownNameError:
    valid = [f"{path}.{name}" if path else name for name in fields]
    return UnknownNameError(f"setting{f' in {source}' if source else ''}", dotted, valid)


def _wrong(hint: Any, value: Any, path: str, source: str) -> ConfigError:
    name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    expected = (name or str(hint)).replace("typing.", "")
    return ConfigError(f"{_where(path, source)} must be {expected}, got {value!r} ({type(value).__name__}).")
