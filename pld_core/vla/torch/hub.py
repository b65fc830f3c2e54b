"""Folders in the hub's format: finding, loading, saving and naming them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pld_core.errors import CheckpointError, ConfigError
from pld_core.storage import storage_errors
from pld_core.vla.torch.settings import Source

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.yaml"]  # no pickled weights
_PRECISIONS = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}


def local_folder(name: str) -> Path:
    """The folder ``name``, or a copy of the repository of that id; CheckpointError where there is neither."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except (OSError, ValueError, HFValidationError) as error:
        brief = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{name!r} is neither a folder here nor a repository that the hub gives: {brief} Give a path, or an id "
            "such as lerobot/pi0_base and a network."
        ) from error


def load_network(model_class: Any, folder: Path, source: Source, **options: Any) -> Any:
    """The network of ``folder``, for inference, on its device; CheckpointError if weights are missing or do not fit."""
    with loading(folder):
        model, info = model_class.from_pretrained(
            folder,
            dtype=_PRECISIONS[source.dtype],
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            **options,
        )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{folder} lacks {len(missing)} of the network's weights: {_some(missing)}.")
    if buffers := sorted(k for k in info["unexpected_keys"] if "normalize_" in k):
        raise CheckpointError(
            f"{folder} has its statistics among the weights ({_some(buffers)}), as lerobot once did. "
            "Convert it with lerobot's migrate_policy_normalization."
        )
    try:
        return model.to(source.device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"The device {source.device!r} cannot be used: {error} Give cpu, cuda or cuda:N.") from error


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Whatever transformers and safetensors raise for a broken folder, as one error."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error


def save_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a new folder that then takes the name ``path``; what stood there before goes last."""
    path = Path(path)
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            write(fresh)
            if path.exists():
                os.replace(path, old)  # a folder cannot be replaced in one step; a crash right here leaves ``old``
            os.replace(fresh, path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def version_of(model: nn.Module, settings: Any) -> str:
    """Hash of weights and ``settings`` (JSON types): twelve hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
