"""The paper's tables on LIBERO, for the tasks and parts that were asked for; every run goes on where it was left.

    pld bench libero --suite libero_object --tasks 0 1 2 --seeds 0 --parts base specialists together

parts:
  base         the base VLA on all tasks of the suite
  specialists  PLD on each task: base, specialist and VLA* of that task (ordinary runs: report, curves, resume)
  baselines    RLPD, WSRL and residual SAC from scratch on the same harvest and budget; needs specialists
  together     one VLA* from the probes of all trained tasks, on those (seen) and on the suite's others (unseen)
  sources      the same from oracle demonstrations and from the base's own successes
  few_shot     the same from the first 5, 20 and 50 probes of each task
Each part comes with its success rates over the official initial states; all found so far is in <out>/libero.json and
libero.md, and the learning curves in curves.png. --minutes N begins nothing new after N minutes. --settings takes
dotted settings over the preset, as in --settings learn.steps=80000. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from learning_curves import curve, draw, table
from results_table import cell
from variants import variant

from pld_core import bring
from pld_core.api import Pipeline
from pld_core.config import TrainConfig, load_config
from pld_core.rewards import BinaryReward
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.evaluate import evaluate
from pld_core.stages.runner import LocalRunner
from pld_core.stages.seeds import test_seeds
from pld_core.stages.workspace import base_checkpoint
from pld_core.statistics import SuccessRate
from pld_core.storage import write_json
from pld_core.vla.compact_vla import CompactVLA

PARTS = ("base", "specialists", "baselines", "together", "sources", "few_shot")
BASELINES: Mapping[str, Mapping[str, Any]] = {
    "rlpd": {},
    "wsrl": {"learn.calql_steps": 1000},
    "residual_sac": {},
}
SOURCES = ("oracle", "base")  # of data for VLA*, beside PLD's probes
FEW = (5, 20, 50)  # probes of each task
TRAINED = ("base", "harvest", "learn")


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

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.config = load_config(self.preset, self.settings)
        self.base_path = base_checkpoint(self.config)

    @property
    def in_time(self) -> bool:
        return time.monotonic() - self._began < 60 * self.minutes

    # -- runs ------------------------------------------------------------------------------------

    def run_of(self, task: str, seed: int) -> Path:
        return self.out / f"{_slug(task)}-seed{seed}"

    def base(self) -> None:
        for task in self.suite:
            self.evaluated(self.base_path, task)

    def specialists(self) -> None:
        for seed in self.seeds:
            for task in self.tasks:
                if not self._done(self.run_of(task, seed), "report"):
                    self._begin(lambda task=task, seed=seed: Pipeline(task, config=self._config(task, seed)).train())

    def baselines(self) -> None:
        for seed in self.seeds:
            for task in self.tasks:
                for algorithm, differing in BASELINES.items():
                    run, name = self.run_of(task, seed), f"{_slug(task)}-{algorithm}-seed{seed}"
                    if self._done(run, "harvest") and not self._done(self.out / name, "learn"):
                        settings = {"learn.algorithm": algorithm, **differing}
                        config = variant(run, name, settings, ("base", "harvest"))
                        self._begin(Pipeline.from_config(config).learn)

    def together(self) -> None:
        self._distill("together", {}, (*TRAINED, "probe"))

    def sources(self) -> None:
        for source in SOURCES:
            self._distill(f"together-{source}", {"distill.data": source}, TRAINED)

    def few_shot(self) -> None:
        for episodes in FEW:
            self._distill(f"together-{episodes}", {"distill.episodes": episodes}, (*TRAINED, "probe"))

    def _distill(self, name: str, settings: Mapping[str, Any], stages: Sequence[str]) -> None:
        """One VLA* for all trained tasks, of the first seed, and its success on every task of the suite."""
        runs = [self.run_of(task, self.seeds[0]) for task in self.tasks]
        if not all(self._done(run, stages[-1]) for run in runs):
            return
        collected = runs
        if "probe" not in stages:
            configs = [variant(run, f"{run.name}-{name}", settings, stages) for run in runs]
            collected = [self.out / config.run_name for config in configs]
            for folder, config in zip(collected, configs, strict=True):
                if not self._done(folder, "probe"):
                    self._begin(Pipeline.from_config(config).probe)
        if not all(self._done(run, "probe") for run in collected):
            return
        first, *others = collected
        folder = self.out / name
        more = {**settings, "distill.runs": tuple(map(str, others))}
        config = variant(first, name, more, (*TRAINED, "probe"))
        if not self._done(folder, "distill"):
            self._begin(Pipeline.from_config(config).distill)
        if self._done(folder, "distill"):
            for task in self.suite:
                self.evaluated(folder / "checkpoints" / "distilled.vla", task)

    def _config(self, task: str, seed: int) -> TrainConfig:
        own = {"task": task, "seed": seed, "name": self.run_of(task, seed).name, "runs_dir": str(self.out)}
        return load_config(self.preset, {**self.settings, **own})

    def _begin(self, run: Callable[[], Any]) -> None:
        if self.in_time:
            run()

    @staticmethod
    def _done(run: Path, stage: str) -> bool:
        return (run / "stages" / f"{stage}.json").exists()

    # -- evaluations -----------------------------------------------------------------------------

    def evaluated(self, checkpoint: Path, task: str) -> None:
        """Success of a policy alone on the held-out seeds, kept under the policy's own version."""
        policy = CompactVLA.load(checkpoint)
        path = self._evaluation(policy.version, task)
        if path.exists() or not self.in_time:
            return
        config = self.config
        factory = bring.environment_factory(task)
        runner = BackgroundRunner(lambda: LocalRunner(factory(config.lanes), policy, BinaryReward, config.replan_every))
        with contextlib.closing(runner):
            began = time.monotonic()
            found = evaluate(runner, task, test_seeds(config.evaluate.episodes))
        print(f"{checkpoint.parent.parent.name} {task}: {cell(found.summary())}", flush=True)
        write_json(path, {**found.summary(), "outcomes": found.outcomes, "seconds": round(time.monotonic() - began)})

    def _evaluation(self, version: str, task: str) -> Path:
        return self.out / "evaluations" / version / f"{_slug(task)}-{self.config.evaluate.episodes}.json"

    def _found(self, checkpoint: Path, task: str) -> dict[str, Any] | None:
        if not checkpoint.exists():
            return None
        return _json(self._evaluation(CompactVLA.load(checkpoint).version, task))

    # -- tables ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """All that was found so far; also written to ``out``."""
        found = {"specialists": self._specialist_rows(), "suite": self._suite_rows(), "curves": self._curves()}
        write_json(self.out / "libero.json", found)
        (self.out / "libero.md").write_text("\n".join(_markdown(found)) + "\n")
        return found

    def _specialist_rows(self) -> list[dict[str, Any]]:
        rows = []
        for task in self.tasks:
            for seed in self.seeds:
                run = self.run_of(task, seed)
                outcome, learned = _json(run / "eval.json"), _json(run / "stages" / "learn.json")
                if outcome is not None and learned is not None:
                    policies = {name: outcome.get(name) for name in ("base", "specialist", "distilled")}
                    more = {"env_steps": learned["env_steps"], "minutes": outcome["minutes"]}
                    rows.append({"task": task, "seed": seed, **policies, **more})
        return rows

    def _suite_rows(self) -> list[dict[str, Any]]:
        policies = {"base": self.base_path}
        for name in ("together", *(f"together-{kind}" for kind in (*SOURCES, *FEW))):
            policies[name] = self.out / name / "checkpoints" / "distilled.vla"
        return [
            {"policy": name, "task": task, "seen": task in self.tasks, **result}
            for name, checkpoint in policies.items()
            for task in self.suite
            if (result := self._found(checkpoint, task)) is not None
        ]

    def _curves(self) -> dict[str, Any]:
        """Per task: success at the budget's end and steps to 95 %, one per seed; drawn in curves-<task>.png."""
        found = {}
        for task in self.tasks:
            names = {"pld": "", **{name: f"-{name}" for name in BASELINES}}
            runs = {n: [self.out / f"{_slug(task)}{part}-seed{s}" for s in self.seeds] for n, part in names.items()}
            curves = {name: [c for run in each if len((c := curve(run))[0])] for name, each in runs.items()}
            curves = {name: each for name, each in curves.items() if each}
            if curves:
                budget = self.config.learn.steps
                draw(curves, budget, self.out / f"curves-{_slug(task)}.png")
                found[task] = table(curves, budget)
        return found


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _slug(task: str) -> str:
    return task.replace("/", "-")


def _markdown(found: Mapping[str, Any]) -> Iterator[str]:
    if found["specialists"]:
        yield "| task | seed | base | specialist | VLA* of the task | steps | minutes |\n|---|---|---|---|---|---|---|"
        for row in found["specialists"]:
            policies = " | ".join(cell(row[name]) for name in ("base", "specialist", "distilled"))
            yield f"| {row['task']} | {row['seed']} | {policies} | {row['env_steps']:,} | {row['minutes']:.1f} |"
        yield ""
    rows = found["suite"]
    if rows:
        policies = list(dict.fromkeys(row["policy"] for row in rows))
        yield f"| task | trained | {' | '.join(policies)} |\n|---|---|{'---|' * len(policies)}"
        for task in dict.fromkeys(row["task"] for row in rows):
            of_task = {row["policy"]: row for row in rows if row["task"] == task}
            seen = "yes" if next(iter(of_task.values()))["seen"] else "no"
            yield f"| {task} | {seen} | {' | '.join(cell(of_task.get(name)) for name in policies)} |"
        for seen, label in ((True, "all trained"), (False, "all others")):
            yield f"| {label} | | {' | '.join(_mean(rows, name, seen) for name in policies)} |"
        yield ""
    for task, methods in found["curves"].items():
        yield f"{task}: success at the end of the budget, best, steps to 95 % (one number per seed)\n"
        yield "| method | at the end | best | steps to 95 % |\n|---|---|---|---|"
        for name, row in methods.items():
            yield f"| {name} | {row['final']} | {row['best']} | {row['steps_to_95']} |"
        yield ""


def _mean(rows: Sequence[Mapping[str, Any]], policy: str, seen: bool) -> str:
    """Pooled over tasks, with the interval of the pooled count."""
    chosen = [row for row in rows if row["policy"] == policy and row["seen"] == seen]
    if not chosen:
        return "-"
    return str(SuccessRate(sum(row["successes"] for row in chosen), sum(row["episodes"] for row in chosen)))


def main() -> None:
    parser = argparse.ArgumentParser(
        "pld bench libero", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="libero_object", help="its preset is used, and all of its tasks evaluated")
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 1, 2], help="numbers of those that are trained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=["base", "specialists", "together"])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("runs/libero"))
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    from pld_sim.libero.suites import SUITES

    suite = [f"{args.suite}/{number}" for number in range(SUITES[args.suite].tasks)]
    given = (setting.partition("=") for setting in args.settings)
    settings = {key: yaml.safe_load(value) for key, _, value in given}
    tasks = [f"{args.suite}/{number}" for number in args.tasks]
    study = Study(args.out.absolute(), args.suite, tasks, suite, args.seeds, settings, args.minutes)
    for part in PARTS:
        if part in args.parts:
            getattr(study, part)()
            study.report()
    print(json.dumps(study.report()))


if __name__ == "__main__":
    main()
