"""One episode in one ``.npz``: columns as arrays, everything else in an embedded JSON text."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pld_core.errors import StorageError
from pld_core.storage import DamagedArchiveError, finite, open_archive, write_atomic
from pld_core.types import BASE_TICK, EXPERT_TICK, RESIDUAL_TICK, Episode, EpisodeSpec

_COLUMNS = ("proprio", "state", "base_action", "residual", "action", "reward", "source", "intervention")
_OUTCOME = ("instruction", "terminated", "truncated", "success", "policy_version", "voided", "environment_success")
_IMAGE_PREFIX = "image:"
_RECORD = "record"
_DEFLATE_LEVEL = 1  # rendered frames shrink to a fraction even at the quickest level


class DamagedEpisodeError(StorageError):
    """The content of an episode file is broken (and not merely unreadable at the moment)."""


def write_episode(path: Path, episode: Episode, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Write atomically; returns the record that is embedded, which is also the index line."""
    record = describe(path.name, episode, metadata)
    arrays = {name: np.asarray(getattr(episode, name)) for name in _COLUMNS}
    arrays |= {_IMAGE_PREFIX + camera: np.asarray(frames) for camera, frames in episode.images.items()}
    arrays[_RECORD] = np.array(json.dumps(record))
    write_atomic(path, lambda file: _write_zip(file, arrays))
    return record | {"bytes": path.stat().st_size}


def read_episode(path: Path) -> Episode:
    """The episode as it was written; raises DamagedEpisodeError if the file is broken."""
    with _opened(path) as arrays:
        record = json.loads(str(arrays[_RECORD]))
        images = {
            name.removeprefix(_IMAGE_PREFIX): arrays[name] for name in arrays.files if name.startswith(_IMAGE_PREFIX)
        }
        return Episode(
            spec=EpisodeSpec(**record["spec"]),
            images=images,
            **{name: arrays[name] for name in _COLUMNS},
            **{name: record[name] for name in _OUTCOME if name in record},  # older files lack the newest
        )


def read_record(path: Path) -> dict[str, Any]:
    """Index line of a file, rebuilt from the file itself; checks that every column can be read."""
    with _opened(path) as arrays:
        record = json.loads(str(arrays[_RECORD]))
        for name in arrays.files:
            _ = arrays[name]
    return record | {"file": path.name, "bytes": path.stat().st_size}


def describe(name: str, episode: Episode, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader may want to know without opening the columns."""
    source = np.asarray(episode.source)
    record = {
        "file": name,
        "ticks": len(episode),
        "spec": dataclasses.asdict(episode.spec),
        **{field: getattr(episode, field) for field in _OUTCOME},
        "cameras": sorted(episode.images),
        "source_ticks": {
            "base": int((source == BASE_TICK).sum()),
            "residual": int((source == RESIDUAL_TICK).sum()),
            "expert": int((source == EXPERT_TICK).sum()),
        },
        "metadata": dict(metadata),
    }
    return finite(record)


def _write_zip(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """As ``np.savez``, with frames compressed at a level that keeps up with a control loop."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, values, allow_pickle=False)
            compression = zipfile.ZIP_DEFLATED if name.startswith(_IMAGE_PREFIX) else zipfile.ZIP_STORED
            entry = zipfile.ZipInfo(f"{name}.npy")  # without a time stamp: equal episodes, equal bytes
            archive.writestr(entry, content.getbuffer(), compression, _DEFLATE_LEVEL)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open_archive(path) as arrays:
            yield arrays
    except DamagedArchiveError as error:
        raise DamagedEpisodeError(f"Episode file {error} The other episodes are intact.") from error
