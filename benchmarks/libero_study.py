"""The paper's tables on LIBERO, for the tasks and parts that were asked for; every run goes on where it was left.

    pld bench libero --suite libero_object --tasks 3 4 8 --seeds 0 --parts base specialists together

parts:
  base         the base VLA on all tasks of the suite
  specialists  PLD on each task: base, specialist and VLA* of that task (ordinary runs: report, curves, resume)
  baselines    RLPD, WSRL and residual SAC from scratch on the same harvest; needs specialists
  together     one VLA* from the probes of all trained tasks, on those (seen) and on the suite's others (unseen)
  sources      the same from oracle demonstrations and from the base's own successes
  few_shot     the same from the first 5, 20 and 50 probes of each task
Success is over the official initial states, those that training starts from as well. All that was found so far, also by
other calls with this --out, is in <out>/libero.json and libero.md, learning curves are in curves.png; a policy that was
evaluated on more states than evaluate.episodes is shown on the first so many. --minutes N begins nothing new after N
minutes. --settings takes dotted settings over the suite's preset: base.checkpoint=PATH learn.steps=80000. Other
settings want another --out, and so do other tasks where one VLA* is made from all of them; baselines may have a smaller
budget than the specialists were given and did not need (--parts baselines --settings learn.steps=40000; curves are
compared up to it). A run that fails is named and the others go on; exit status 1 then. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from learning_curves import curve, draw, table
from libero_tables import markdown
from results_table import cell, first
from variants import share, variant

from pld_core import bring
from pld_core.api import Pipeline
from pld_core.config import TrainConfig, differing_keys, load_config
from pld_core.errors import ConfigError, PLDError
from pld_core.rewards import BinaryReward
from pld_core.runlog import read_config
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.evaluate import evaluate
from pld_core.stages.runner import LocalRunner
from pld_core.stages.seeds import test_seeds
from pld_core.stages.workspace import base_checkpoint
from pld_core.storage import write_json
from pld_core.vla.compact_vla import CompactVLA
from pld_sim.libero.suites import SUITES, parse

PARTS = ("base", "specialists", "baselines", "together", "sources", "few_shot")
BASELINES: Mapping[str, Mapping[str, Any]] = {
    "rlpd": {},
    "wsrl": {"learn.calql_steps": 1000},
    "residual_sac": {},
}
SOURCES = ("oracle", "base")  # of data for VLA*, beside PLD's probes
FEW = (5, 20, 50)  # probes of each task
LEARNT = ("base", "harvest", "learn")
PROBED = (*LEARNT, "probe")
LAST_STAGE = {"train": "report", "learn": "learn", "probe": "probe", "distill": "distill"}  # of Pipeline's verbs


@dataclass
class Study:
    """tasks: those that are trained; suite: all that are evaluated; seeds: of the runs; settings: over the preset."""

    out: Path
    preset: str
    tasks: Sequence[str]
    suite: Sequence[str]
    seeds: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = float("inf")
    failures: dict[str, str] = field(default_factory=dict)  # by run

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.config = load_config(self.preset, self.settings)
        self.base_path = base_checkpoint(self.config)

    @cached_property
    def base_version(self) -> str:
        return CompactVLA.load(self.base_path).version

    @property
    def in_time(self) -> bool:
        return time.monotonic() - self._began < 60 * self.minutes

    # -- parts -----------------------------------------------------------------------------------

    def base(self) -> None:
        self.evaluated("base", self.base_path)

    def specialists(self) -> None:
        for seed in self.seeds:
            for task in self.tasks:
                own = {"task": task, "seed": seed, "name": self.run_of(task, seed).name, "runs_dir": str(self.out)}
                self._run("train", load_config(self.preset, {**self.settings, **own}))

    def baselines(self) -> None:
        learning = {key: value for key, value in self.settings.items() if key.startswith("learn.")}
        for seed in self.seeds:
            for task in self.tasks:
                run = self.run_of(task, seed)
                if not _is_done(run, "harvest"):
                    print(f"baselines of {task}, seed {seed}: not yet, {run.name} has no harvest", flush=True)
                    continue
                for algorithm, differing in BASELINES.items():
                    settings = {**learning, "learn.algorithm": algorithm, **differing}
                    config = variant(run, self.run_of(task, seed, algorithm).name, settings)
                    self._run("learn", config, run, LEARNT[:2])

    def together(self) -> None:
        self._distill("together", {}, self._probed())

    def sources(self) -> None:
        for source in SOURCES:
            found = []
            for run in filter(None, self._probed()):
                settings = {"distill.data": source}
                found.append(self._run("probe", variant(run, f"{run.name}-{source}", settings), run, LEARNT))
            self._distill(f"together-{source}", {"distill.data": source}, found)

    def few_shot(self) -> None:
        for episodes in FEW:
            self._distill(f"together-{episodes}", {"distill.episodes": episodes}, self._probed())

    def _distill(self, name: str, settings: Mapping[str, Any], probed: Sequence[Path | None]) -> None:
        """One VLA* from all ``probed`` runs, and its success on every task of the suite; nothing if one is missing."""
        runs = [run for run in probed if run is not None]
        if len(runs) < len(self.tasks):
            print(f"{name}: not yet, only {len(runs)} of {len(self.tasks)} tasks have their probes", flush=True)
            return
        first, *others = runs
        config = variant(first, name, {**settings, "distill.runs": tuple(map(str, others))})
        folder = self._run("distill", config, first, PROBED)
        if folder:
            self.evaluated(name, _distilled(folder))

    # -- runs ------------------------------------------------------------------------------------

    def run_of(self, task: str, seed: int, algorithm: str = "") -> Path:
        return self.out / "-".join(filter(None, (_slug(task), algorithm, f"seed{seed}")))

    def _runs_of(self, task: str, algorithm: str = "") -> dict[int, Path]:
        """All that have begun, by seed."""
        folders = self.out.glob(f"{self.run_of(task, 0, algorithm).name.removesuffix('0')}*")
        numbers = (folder.name.rpartition("seed")[2] for folder in folders)
        return {seed: self.run_of(task, seed, algorithm) for seed in sorted(int(n) for n in numbers if n.isdigit())}

    def _probed(self) -> list[Path | None]:
        """The runs of the first seed in the suite's order, None for those that have no probes."""
        runs = (self.run_of(task, self.seeds[0]) for task in sorted(self.tasks, key=self.suite.index))
        return [run if _is_done(run, "probe") else None for run in runs]

    def _run(
        self, verb: str, config: TrainConfig, source: Path | None = None, shared: Sequence[str] = ()
    ) -> Path | None:
        """The run's folder once ``verb`` has been through; it runs here, behind ``shared`` stages of ``source``, if
        there is time for it. None where it has not."""
        folder, stage = self.out / config.run_name, LAST_STAGE[verb]
        if _is_done(folder, stage):
            self._require_same(folder, config)
            return folder
        if not self.in_time:
            return None
        try:
            if source is not None:
                share(source, folder, shared)
            getattr(Pipeline.from_config(config), verb)()
        except PLDError as error:
            self._fail(folder.name, error)
            return None
        return folder

    def _fail(self, what: str, error: PLDError) -> None:
        self.failures[what] = str(error)
        print(f"{what} failed: {error}", flush=True)

    def _require_same(self, folder: Path, config: TrainConfig) -> None:
        """Refuse results that other settings or another base have given."""
        differing = differing_keys(read_config(folder), config)
        began_with = (_json(folder / "stages" / "base.json") or {}).get("policy")
        if differing or began_with != self.base_version:
            what = ", ".join(f"{key} {old!r}, now {new!r}" for key, (old, new) in differing.items())
            what = what or f"base {began_with}, now {self.base_version}"
            raise ConfigError(f"{folder} was run with {what}. Give another --out, or remove that folder.")

    # -- evaluations -----------------------------------------------------------------------------

    def evaluated(self, name: str, checkpoint: Path) -> None:
        """Success of a policy alone on the held-out seeds of the whole suite, kept under the policy's own version."""
        policy = CompactVLA.load(checkpoint)
        for task in self.suite:
            if self._evaluation(policy.version, task) is None and self.in_time:
                try:
                    self._evaluate(name, policy, task)
                except PLDError as error:
                    self._fail(f"{name} on {task}", error)

    def _evaluate(self, name: str, policy: CompactVLA, task: str) -> None:
        config, factory, episodes = self.config, bring.environment_factory(task), self.config.evaluate.episodes
        runner = BackgroundRunner(lambda: LocalRunner(factory(config.lanes), policy, BinaryReward, config.replan_every))
        with contextlib.closing(runner):
            began = time.monotonic()
            found = evaluate(runner, task, test_seeds(episodes))
        print(f"{name}, {task}: {cell(found.summary())}", flush=True)
        file = f"{_slug(task)}-{episodes}-replan{config.replan_every}.json"
        seconds = round(time.monotonic() - began)
        result = {**found.summary(), "outcomes": found.outcomes, "seconds": seconds}
        write_json(self._evaluations(policy.version) / file, result)

    def _evaluations(self, version: str) -> Path:
        return self.out / "evaluations" / version

    def _evaluation(self, version: str, task: str) -> dict[str, Any] | None:
        """What was found on the first ``evaluate.episodes`` states, also of more of them; None if nothing was."""
        episodes, task, replanned = self.config.evaluate.episodes, _slug(task), f"replan{self.config.replan_every}"
        stored = self._evaluations(version).glob(f"{task}-*-{replanned}.json")
        sizes = (int(path.stem.removeprefix(f"{task}-").removesuffix(f"-{replanned}")) for path in stored)
        size = min((size for size in sizes if size >= episodes), default=None)
        found = _json(self._evaluations(version) / f"{task}-{size}-{replanned}.json")
        return found if found is None or size == episodes else first(found, episodes)

    # -- tables ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """All that was found so far; also written to ``out``."""
        rows = {"specialists": self._specialist_rows(), "suite": self._suite_rows(), "curves": self._curves()}
        found = {**rows, "failures": dict(self.failures)}
        write_json(self.out / "libero.json", found)
        (self.out / "libero.md").write_text("\n".join(markdown(found)) + "\n")
        return found

    def _specialist_rows(self) -> list[dict[str, Any]]:
        rows = []
        for task in self.suite:
            for seed, run in self._runs_of(task).items():
                outcome, learned = _json(run / "eval.json"), _json(run / "stages" / "learn.json")
                if outcome is not None and learned is not None:
                    policies = {name: outcome.get(name) for name in ("base", "specialist", "distilled")}
                    more = {"env_steps": learned["env_steps"], "minutes": outcome["minutes"]}
                    rows.append({"task": task, "seed": seed, **policies, **more})
        return rows

    def _suite_rows(self) -> list[dict[str, Any]]:
        policies = {"base": self.base_path}
        for name in ("together", *(f"together-{kind}" for kind in (*SOURCES, *FEW))):
            policies[name] = _distilled(self.out / name)
        versions = {name: CompactVLA.load(path).version for name, path in policies.items() if path.exists()}
        seen = self._seen()
        return [
            {"policy": name, "task": task, "seen": task in seen, **result}
            for name, version in versions.items()
            for task in self.suite
            if (result := self._evaluation(version, task)) is not None
        ]

    def _seen(self) -> set[str]:
        """The tasks that one VLA* was made from, by this call or another."""
        together = self.out / "together"
        if not _is_done(together, "distill"):
            return set(self.tasks)
        config = read_config(together)
        return {config.task, *(read_config(Path(run)).task for run in config.distill.runs)}

    def _curves(self) -> dict[str, Any]:
        """Per task and method: success at the end of the smallest budget and steps to 95 %, one per seed that has
        begun."""
        panels, budgets = {}, {}
        for task in self.suite:
            names = {"pld": "", **{name: name for name in BASELINES}}
            runs = {name: list(self._runs_of(task, names[name]).values()) for name in names}
            begun = {run: points for each in runs.values() for run in each if len((points := curve(run))[0])}
            if begun:
                curves = {name: [begun[run] for run in each if run in begun] for name, each in runs.items()}
                panels[task] = {name: each for name, each in curves.items() if each}
                budgets[task] = min(read_config(run).learn.steps for run in begun)
        if panels:
            draw(panels, budgets, self.out / "curves.png")
        return {task: {"budget": budgets[task], "methods": table(panels[task], budgets[task])} for task in panels}


def _distilled(run: Path) -> Path:
    return run / "checkpoints" / "distilled.vla"


def _is_done(run: Path, stage: str) -> bool:
    return (run / "stages" / f"{stage}.json").exists()


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _slug(task: str) -> str:
    return task.replace("/", "-")


def _parsed_settings(given: Sequence[str]) -> dict[str, Any]:
    for setting in given:
        if "=" not in setting:
            raise ConfigError(f"--settings was given {setting!r}; write KEY=VALUE, as in learn.steps=80000.")
    return {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in given)}


def run(args: argparse.Namespace) -> int:
    tasks = [f"{args.suite}/{number}" for number in args.tasks]
    for task in tasks:
        parse(task)  # says what is wrong before hours have passed
    suite = [f"{args.suite}/{number}" for number in range(SUITES[args.suite].tasks)]
    settings = _parsed_settings(args.settings)
    study = Study(args.out.absolute(), args.suite, tasks, suite, args.seeds, settings, args.minutes)
    for part in PARTS:
        if part in args.parts:
            getattr(study, part)()
            study.report()
    print(json.dumps(study.report()))
    return 1 if study.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        "pld bench libero", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="libero_object", help="its preset is used, and all of its tasks evaluated")
    parser.add_argument("--tasks", type=int, nargs="+", default=[3, 4, 8], help="numbers of those that are trained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=["base", "specialists", "together"])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("runs/libero"))
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE")
    try:
        return run(parser.parse_args())
    except PLDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
