"""What the string of a policy in PyTorch says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pld_core.errors import ConfigError
from pld_core.strict import build_from_query
from pld_core.vla.robot_mapping import RobotMapping, read_mapping

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Source:
    """A checkpoint and how to hold it: ``PATH_OR_ID?device=cuda&dtype=bfloat16&batch=10``.

    device: of torch, empty: the first GPU, else the CPU. dtype ``auto``: as saved. mapping: a file in place of the
    checkpoint's ``pld.yaml``; batch: in place of the one there. tokenizer: path or hub id, for checkpoints that
    carry none. unnorm_key: whose statistics, where there are several.
    """

    path: str
    device: str = ""
    dtype: Precision = "auto"
    batch: int | None = None
    mapping: Path | None = None
    tokenizer: str = ""
    unnorm_key: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("A checkpoint needs a path or hub id before its options.")

    @classmethod
    def parse(cls, argument: str) -> Source:
        """From the text behind the policy's name; raises ConfigError with the valid options."""
        return build_from_query(cls, argument)

    def mapping_of(self, folder: Path) -> RobotMapping:
        """Of the checkpoint in ``folder``, with this batch."""
        mapping = read_mapping(folder, self.mapping)
        return mapping if self.batch is None else dataclasses.replace(mapping, batch=self.batch)
