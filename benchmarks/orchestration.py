"""Orchestration: what a run costs beyond its own steps. 200 one-step runs, each in a process of its own.

    python benchmarks/orchestration.py [--runs 200] [--jobs 1] [--output FILE.json]

Prints one JSON object. ``overhead_s_per_run`` = (wall time - training and evaluation steps) / runs, at one job: process,
loading data and backbone, attaching, proofs, records. The first run, which waits for the fork server, is
reported by itself and left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from _report import report

from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Train

TASK = {"kind": "image-classification", "data": "digits", "train_size": 64, "validation_size": 16, "test_size": 16}


def config(seed: int) -> RunConfig:
    """A LoRA run of one step on the bundled backbone."""
    return RunConfig(
        study="orchestration",
        arm="lora",
        label="lora",
        slug="lora",
        backbone="bundled:vit-nano",
        backbone_fingerprint="bundled",
        task=TASK,
        data_fingerprint="digits",
        adapter={"name": "lora"},
        quantizer={"name": "none"},
        train=Train(max_steps=1, batch_size=16).model_dump(mode="json"),
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = ResultsFolder(Path(name) / "orchestration").open_or_create("study: orchestration\n")
        options = WorkerOptions(cache=Path(name) / "cache")
        begin = time.perf_counter()
        execute(folder, [config(10_000)], jobs=1, options=options, listener=NullListener())
        first_s = time.perf_counter() - begin
        configs = [config(seed) for seed in range(arguments.runs)]
        begin = time.perf_counter()
        outcome = execute(folder, configs, jobs=arguments.jobs, options=options, listener=NullListener())
        wall_s = time.perf_counter() - begin
        times = [folder.run(c).results().time for c in configs]  # pyright: ignore
        bare_s = sum(t["train_s"] + t["evaluate_s"] for t in times)
    report(
        "orchestration",
        arguments.output,
        ("torch", "peft"),
        {"runs": arguments.runs, "jobs": arguments.jobs},
        outcome=outcome.counts,
        first_run_s=round(first_s, 3),
        wall_s=round(wall_s, 3),
        bare_steps_s=round(bare_s, 3),
        overhead_s_per_run=round((wall_s * arguments.jobs - bare_s) / arguments.runs, 4),
        in_process_s_median=round(statistics.median(t["total_s"] for t in times), 4),
    )


if __name__ == "__main__":
    main()
