"""An append-only folder of episodes that no crash can spoil.

One ``episode_<k>.npz`` per episode (arrays plus a JSON header; no pickle). A file takes its name only
when it is complete and on disk; files that cannot be read are moved to ``corrupt/`` when the folder
is opened.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.storage import storage_errors, write_atomic, write_json
from pld_core.types import Episode, EpisodeSpec

_COLUMNS = ("proprio", "state", "base_action", "residual", "action", "reward", "source", "intervention")
_FLAGS = ("instruction", "terminated", "truncated", "success", "policy_version", "voided")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class EpisodeStore:
    """Episodes in the order in which they were appended; ``load(k)`` reads one, iteration reads all."""

    def __init__(self, folder: Path) -> None:
        """Open or create; heals what a crash left behind."""
        self.folder = Path(folder)
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._headers: list[dict[str, Any]] = []
        self._files: list[Path] = []
        for path in sorted(self.folder.glob("episode_*.npz")):
            self._adopt(path)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Episode]:
        return (self.load(k) for k in range(len(self)))

    def append(self, episode: Episode, **metadata: Any) -> Path:
        """Write one episode; StorageError (nothing changed) if the disk does not take it."""
        header = {
            "spec": dataclasses.asdict(episode.spec),
            **{name: getattr(episode, name) for name in _FLAGS},
            "ticks": len(episode),
            "cameras": sorted(episode.images),
            "metadata": metadata,
        }
        arrays = {name: getattr(episode, name) for name in _COLUMNS}
        arrays |= {f"image_{name}": frames for name, frames in episode.images.items()}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        last = int(self._files[-1].stem.rpartition("_")[2]) if self._files else -1
        path = self.folder / f"episode_{last + 1:06d}.npz"
        write_atomic(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
        self._files.append(path)
        self._headers.append(json.loads(json.dumps(header)))
        return path

    def load(self, k: int) -> Episode:
        with np.load(self._files[k], allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            columns = {name: arrays[name] for name in _COLUMNS}
            images = {name: arrays[f"image_{name}"] for name in header["cameras"]}
        return Episode(
            spec=EpisodeSpec(**header["spec"]), images=images, **columns, **{name: header[name] for name in _FLAGS}
        )

    def metadata(self) -> list[dict[str, Any]]:
        """What ``append`` was given beside each episode."""
        return [header["metadata"] for header in self._headers]

    def summary(self) -> dict[str, Any]:
        """Counts and provenance for reports."""
        return {
            "episodes": len(self),
            "successes": sum(bool(h["success"]) for h in self._headers),
            "ticks": sum(int(h["ticks"]) for h in self._headers),
            "policy_versions": sorted({h["policy_version"] for h in self._headers}),
        }

    def write_index(self) -> None:
        """``index.json``: one readable line of provenance per episode, for people and for other tools."""
        rows = [{"file": f.name, **h} for f, h in zip(self._files, self._headers, strict=True)]
        write_json(self.folder / "index.json", {"summary": self.summary(), "episodes": rows})

    def _adopt(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(arrays["header"].tobytes())
                header["spec"], header["metadata"]  # noqa: B018 (a header without them is not ours)
        except _UNREADABLE as error:
            with storage_errors(path):
                (self.folder / "corrupt").mkdir(exist_ok=True)
                path.rename(self.folder / "corrupt" / path.name)
            warnings.warn(f"{path} cannot be read ({error}); moved to {self.folder / 'corrupt'}.", stacklevel=3)
            return
        self._files.append(path)
        self._headers.append(header)
