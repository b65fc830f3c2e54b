"""Upload of a finished dataset to the Hugging Face Hub. Nothing else in PLD sends anything there."""

from __future__ import annotations

from pathlib import Path

from pld_core.data.lerobot import layout
from pld_core.errors import ConfigError, StorageError


def check_upload() -> None:
    """Before the work of an export: ConfigError if the package for its upload is missing."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise ConfigError("--push needs huggingface_hub: pip install 'pld[lerobot]'.") from error


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Make the repository if need be, upload, and tag it with the format's version, which LeRobot looks for.

    The user's token is taken from where `hf auth login` puts it. Answers the address.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    version = layout.read_info(folder)["codebase_version"]
    api = HfApi()
    try:
        made = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, ignore_patterns="**/.*")
        api.create_tag(repo_id, tag=version, repo_type="dataset", exist_ok=True)
    except HFValidationError as error:
        raise ConfigError(f"--repo_id {repo_id!r} is no name of a repository: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise StorageError(
            f"The dataset is complete in {folder}, but could not be uploaded: {error} Log in with `hf auth login`, "
            f"then `hf upload {repo_id} {folder} --repo-type dataset`."
        ) from error
    return str(made)
