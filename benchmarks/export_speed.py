"""Speed and size of dataset exports: the probe episodes of a run to LeRobot v3.0 and v2.1, and back.

    python benchmarks/export_speed.py runs/latest --data probe

The re-imported episodes are compared with the run's own: everything but the pictures must be equal to the last bit.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.data.episode_store import EpisodeStore
from pld_core.stages.export import VERSIONS, ExportConfig, export, import_dataset
from pld_core.types import Episode

COLUMNS = ("proprio", "state", "base_action", "residual", "action", "reward", "source", "intervention")


def measure(run: Path, data: Any, kind: Any, folder: Path) -> dict[str, Any]:
    """Export, import and compare in one format. Raises AssertionError where something came back changed."""
    written = export(ExportConfig(run, folder / kind, data=data, format=kind))
    read = import_dataset(folder / kind, folder / f"{kind}-back")
    originals = (e for e in EpisodeStore(run / data, read_only=True) if not e.voided)
    back = EpisodeStore(folder / f"{kind}-back", read_only=True)
    errors = [difference(a, b) for a, b in zip(originals, back, strict=True)]
    return {
        "episodes": written.episodes,
        "frames": written.frames,
        "megabytes": round(written.megabytes, 2),
        "files": len(written.files),
        "export_frames_per_s": round(written.frames / written.seconds, 1),
        "import_frames_per_s": round(read.frames / read.seconds, 1),
        "pixel_error": round(float(np.mean(errors)), 2),
    }


def difference(given: Episode, back: Episode) -> float:
    """Mean difference of the pictures, of 255."""
    assert given.spec == back.spec, "the order of an episode came back changed"
    for name in COLUMNS:
        assert np.array_equal(getattr(given, name), getattr(back, name)), f"{name} came back changed"
    pairs = [(frames, back.images[name]) for name, frames in given.images.items()]
    return float(np.mean([np.abs(a.astype(np.int16) - b).mean() for a, b in pairs] or [0.0]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and size of dataset exports.")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--data", default="probe", choices=("probe", "harvest"))
    options = parser.parse_args()
    store = EpisodeStore(options.run / options.data, read_only=True)
    recorded = sum((options.run / options.data / r.name).stat().st_size for r in store.folder.glob("episode-*.npz"))
    with tempfile.TemporaryDirectory() as folder:
        found = {kind: measure(options.run, options.data, kind, Path(folder)) for kind in VERSIONS}
    print(json.dumps({**found, "recorded_megabytes": round(recorded / 1e6, 2)}))


if __name__ == "__main__":
    main()
