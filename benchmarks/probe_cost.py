"""What the probes take of a run.

    python benchmarks/probe_cost.py [STUDY] [--arm LABEL] [--turns N] [--output FILE]

Whole runs of one arm of a study (the demo's LoRA of rank 8) in this process, with every probe that watches unasked and with none,
in turn, one thread; data and hidden states are prepared before. Seconds of the processor, those of a run's own record
(``time.cpu_s``); and of each probe the share of the run's wall-clock seconds that its hook took, asking it at the end included
(``time.hooks_s``). Prints JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from _report import report

from peftlab.execution import watching
from peftlab.execution.protocol import Channel, WorkerOptions
from peftlab.execution.worker import Run
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.probes.contract import probes_of
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.study.load import load_study

STUDY = Path(__file__).parents[1] / "studies" / "digits.yaml"
#: results count with what it finds
KEPT = "parameters"


class Never:
    """No reason to stop."""

    number = None

    def check(self) -> None: ...

    def __call__(self) -> bool:
        return False


def config_of(study: Path, arm: str, cache: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The first run of an arm."""
    plan = make_plan(load_study(study, overrides), PlanOptions(cache=cache, only=(arm,), predict=False))
    return next(planned.config for planned in plan.runs if planned.config is not None)


def timed(config: RunConfig, folder: Path, cache: Path, *, probes: bool) -> dict[str, Any]:
    """``time`` in the record of a run, which is made anew."""
    run = RunFolder(folder)
    run.create(config)
    chosen = probes_of if probes else lambda asked: [probe for probe in probes_of(asked) if probe.name == KEPT]
    options = WorkerOptions(cache=cache, device="cpu", checkpoint_every_s=1e9)
    never: Any = Never()
    with run.lease(), mock.patch.object(watching, "probes_of", chosen):
        Run(config, run, options, Channel(None), never).execute()
    results = run.results()
    assert results is not None
    return results.time


def measure(config: RunConfig, cache: Path, turns: int) -> dict[str, Any]:
    """Seconds of the processor with and without, by turn; shares of every probe, means over turns."""
    sides: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    names = {probe.name for probe in probes_of({})}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, turns):  # the first sets up memory and caches
            for side, runs in sides.items():
                took = timed(config, Path(folder) / f"{side}-{turn}" / config.run_id, cache, probes=side == "with")
                runs += [took] * (turn >= 0)
    cpu = {side: [round(took["cpu_s"], 3) for took in runs] for side, runs in sides.items()}
    ratios = [more / less for more, less in zip(cpu["with"], cpu["without"], strict=True)]
    shares = {
        name: statistics.mean(took["hooks_s"].get(name, 0.0) / took["total_s"] for took in sides["with"])
        for name in sorted(names)
    }
    return {
        "cpu_s": cpu,
        "cpu_ratio": round(statistics.median(ratios), 4),
        "cpu_ratios": [round(ratio, 4) for ratio in ratios],
        "share_of_run": {name: round(share, 4) for name, share in shares.items() if share},
        "train_s": [round(took["train_s"], 2) for took in sides["with"]],
        "total_s": [round(took["total_s"], 2) for took in sides["with"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=STUDY)
    parser.add_argument("--arm", default="lora[rank=8]")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], help="keys of the study, as `peftlab run --set`")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        config = config_of(options.study, options.arm, Path(cache), tuple(options.set))
        found = measure(config, Path(cache), options.turns)
    settings = {"study": options.study.name, "arm": options.arm, "set": options.set}
    report("probe_cost", options.output, ("torch", "peft", "transformers"), settings, **found)


if __name__ == "__main__":
    main()
