"""What the verbs share: flags to a TrainConfig, and one stage of the pipeline."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pld_core.config import TrainConfig, check_keys, load_config, preset_for
from pld_core.config_rules import validate
from pld_core.errors import ConfigError
from pld_core.runlog import read_config
from pld_core.stations import for_task

T = TypeVar("T")


def parse_config(args: Sequence[str], verb: str) -> TrainConfig:
    """The settings of ``--preset``, of the preset for ``--task``, or of the run at ``--run``, with the flags on top."""
    import tyro

    preset, rest = take_option(args, "--preset")
    run, rest = take_option(rest, "--run")
    if preset and run:
        raise ConfigError("Give --preset or --run, not both: a run already has its settings.")
    task, _ = take_option(rest, "--task")
    config = load_config(preset or preset_for(task or TrainConfig.task)) if run is None else _config_of_run(Path(run))
    config = for_task(config, task) if task else config
    for argument in rest:  # before tyro, so that a wrong name gets a suggestion in our own words
        if argument.startswith("--") and argument != "--help":
            check_keys({_key_of(argument): None})
    try:
        parsed = tyro.cli(
            TrainConfig,
            prog=f"pld {verb}",
            description=_description(verb),
            default=config,
            args=rest,
            use_underscores=True,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return validate(parsed)


def parse_own(settings: type[T], verb: str, description: str, args: Sequence[str]) -> T:
    """The settings of a verb that has its own dataclass of them; ConfigError for what they refuse."""
    import tyro

    try:
        return tyro.cli(
            settings,
            prog=f"pld {verb}",
            description=f"pld {verb}: {description}",
            args=list(args),
            use_underscores=True,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def run_stage(args: Sequence[str], verb: str, method: str) -> int:
    """Parse the flags, then call one method of the pipeline. JAX is imported only from here on."""
    config = parse_config(args, verb)
    from pld_core.api import Pipeline

    getattr(Pipeline.from_config(config), method)()
    return 0


def take_option(args: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """``(value, the other arguments)`` of ``--flag value`` or ``--flag=value``."""
    rest, value = [], None
    remaining = iter(args)
    for argument in remaining:
        if argument == flag:
            value = next(remaining, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"{flag} needs a value.")
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return value, rest


def take_flag(args: Sequence[str], flag: str) -> tuple[bool, list[str]]:
    return flag in args, [a for a in args if a != flag]


@contextlib.contextmanager
def only_json(quiet: bool, out: TextIO) -> Any:
    """With ``quiet``, what is printed inside goes nowhere; the caller prints its JSON to ``out``."""
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        yield out


def _key_of(argument: str) -> str:
    key = argument.removeprefix("--").partition("=")[0].replace("-", "_")
    parent, dot, leaf = key.rpartition(".")
    return f"{parent}{dot}{leaf.removeprefix('no_')}"


def _config_of_run(run_dir: Path) -> TrainConfig:
    import dataclasses

    folder = run_dir.resolve()  # through the link runs/latest
    return dataclasses.replace(read_config(folder), name=folder.name, runs_dir=str(folder.parent), fresh=False)


def _description(verb: str) -> str:
    from pld_core.cli.main import VERBS

    return (
        f"pld {verb}: {VERBS[verb]}. --preset NAME (or a path) starts from robot_configs/train/NAME.yaml, "
        "--task NAME alone from the preset of that name, or from custom.yaml, "
        "--run DIR from the settings of an existing run."
    )
