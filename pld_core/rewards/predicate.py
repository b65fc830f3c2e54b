"""Conditions on proprioception, such as ``tool_z_m < 0.12 and 0.01 < gripper_width_m < 0.05``.

A condition is comparisons of a name with a number (``<``, ``<=``, ``>``, ``>=``, chained as in
mathematics), joined by ``and``. It is parsed here; nothing in it is ever executed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pld_core.errors import ConfigError, UnknownNameError

_OPERATORS: Mapping[str, Callable[..., bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<op><=|>=|<|>))"
)
_HELP = (
    "Write comparisons of a name with a number, joined by `and`, as in `tool_z_m < 0.12 and gripper_width_m > 0.01`."
)


@dataclass(frozen=True)
class Comparison:
    """``proprio[index] op value``."""

    index: int
    op: str
    value: float


@dataclass(frozen=True)
class Predicate:
    """True where every comparison holds; without any, always."""

    text: str
    comparisons: tuple[Comparison, ...]

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> Predicate:
        """A condition on entries of the proprioception that are called ``names``. Raises ConfigError."""
        if not text.strip():
            return cls("", ())
        parts = [_comparisons(part, text, names) for part in re.split(r"\s+and\s+", text.strip())]
        return cls(text.strip(), tuple(c for part in parts for c in part))

    def holds(self, proprio: np.ndarray) -> bool:
        """For one proprioception ``[P]``; NaN satisfies nothing."""
        return all(bool(_OPERATORS[c.op](proprio[c.index], c.value)) for c in self.comparisons)

    def holds_each(self, proprio: np.ndarray) -> np.ndarray:
        """bool ``[N]`` for ``[N, P]``."""
        held = np.ones(len(proprio), bool)
        for c in self.comparisons:
            held &= np.asarray(_OPERATORS[c.op](proprio[:, c.index], c.value))
        return held


def _comparisons(part: str, text: str, names: Sequence[str]) -> list[Comparison]:
    """``a < x < b`` as two comparisons."""
    tokens = _tokens(part, text)
    kinds = [kind for kind, _ in tokens]
    well_formed = len(tokens) >= 3 and len(tokens) % 2 == 1 and all(k == "op" for k in kinds[1::2])
    if not well_formed or "op" in kinds[::2]:
        raise ConfigError(f"{part!r} in the condition {text!r} is no comparison. {_HELP}")
    triples = zip(tokens[:-2:2], tokens[1:-1:2], tokens[2::2], strict=True)
    return [_comparison(left, op, right, text, names) for left, op, right in triples]


def _comparison(
    left: tuple[str, str], op: tuple[str, str], right: tuple[str, str], text: str, names: Sequence[str]
) -> Comparison:
    if {left[0], right[0]} != {"name", "number"}:
        raise ConfigError(f"`{left[1]} {op[1]} {right[1]}` in {text!r} must compare a name with a number. {_HELP}")
    swapped = left[0] == "number"
    name, number = (right[1], left[1]) if swapped else (left[1], right[1])
    if name not in names:
        hint = "" if names else "The names of the proprioception are not known; give --robot."
        raise UnknownNameError(f"proprioception in the condition {text!r}:", name, names, hint)
    sign = op[1].translate(str.maketrans("<>", "><")) if swapped else op[1]
    return Comparison(list(names).index(name), sign, float(number))


def _tokens(part: str, text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(part.rstrip()):
        match = _TOKEN.match(part, at)
        if match is None:
            raise ConfigError(f"Cannot read {part[at:].strip()!r} in the condition {text!r}. {_HELP}")
        found.append((str(match.lastgroup), match[match.lastgroup or 0]))
        at = match.end()
    return found
