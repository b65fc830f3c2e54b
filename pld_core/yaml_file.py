"""Settings files: YAML that says what is wrong with it, and on which line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pld_core.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary; raises ConfigError where it is none, or where a key stands in it twice."""
    loader = None
    try:
        loader = _Loader(_text(path))
        loader.name = str(path)  # of which its complaints speak
        values = loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date such as 2024-13-01
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as `key: value` lines, got {type(values).__name__}.")
    return values


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} on line {line}. Save it as UTF-8."
        ) from error


class _Loader(yaml.SafeLoader):
    """Of a key that is given twice, YAML keeps the last one and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Looks before ``<<`` puts in what stands elsewhere: that may be given anew."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or a mapping, which no setting is named by
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise ConfigError(
                    f"{self.name}: {key.value!r} is given twice, on line {lines[name]} and on line {line}, and only "
                    "one of them can count. Make one of the two."
                )
            lines[name] = line
        return node
