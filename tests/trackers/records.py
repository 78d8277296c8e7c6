"""Records of runs, written as a run writes them, and trackers that follow them in their real processes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from peftlab.execution.tracking import Tracking
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.run_folder import RunFolder
from peftlab.trackers.contract import Status
from tests.trackers.stores import BEGUN

STEPS = 6
RANKS = {"blocks.0.q": 6, "blocks.0.v": 2}


def config(seed: int = 3, **changes: Any) -> RunConfig:
    fixed: dict[str, Any] = {
        "study": "tracked", "arm": "lora", "label": "lora[rank=4]", "slug": "lora.rank-4",
        "backbone": "bundled:tiny", "backbone_fingerprint": "0", "data_fingerprint": "0",
        "task": {"kind": "image-classification", "data": {"name": "digits"}}, "adapter": {"name": "lora", "rank": 4},
        "quantizer": {"name": "none"}, "train": {"epochs": 2.0, "learning_rate": 0.01},
    }  # fmt: skip
    return RunConfig(**{**fixed, "seed": seed, **changes})


def store(study: Path) -> Path:
    """Where the trackers of the study of ``record(study)`` write."""
    return study / "trackers"


def record(study: Path, wanted: RunConfig | None = None) -> RunFolder:
    """A run that has begun."""
    wanted = wanted or config()
    return RunFolder(study / "runs" / wanted.slug / wanted.run_id).make().create(wanted)


def loss(step: int) -> float:
    return 1.0 / step


def train(run: RunFolder, first: int, last: int) -> None:
    """Steps ``first`` to ``last``; after every second one an evaluation."""
    for step in range(first, last + 1):
        about = {"step": step, "epoch": step / 3, "time_s": step * 0.1}
        value = math.nan if step == 2 else loss(step)
        lines: list[dict[str, Any]] = [{**about, "split": "train", "loss": value, "learning_rate": 0.01 * step}]
        if step % 2 == 0:
            lines.append({**about, "split": "validation", "loss": loss(step), "accuracy": step / 10})
        run.append_metrics(lines, durable=False)


def results(run: RunFolder, **changes: Any) -> RunResults:
    """What the run ends with; its JSON files are written."""
    history = [{"step": 2, "ranks": {"blocks.0.q": 4, "blocks.0.v": 4}}, {"step": 4, "ranks": RANKS}]
    run.write_json("ranks.json", {"history": history, "ranks": RANKS, "effective_scale": 2.0})
    run.write_json("parameters.json", {"trainable": 50, "trainable_percent": 5.0, "ranks": {}, "at_end": {"ranks": RANKS}})
    use = {"effective_rank": 3.0, "rank_90": 2, "share_in_use": 0.5}
    sites = {"blocks.0.q": use, "blocks.0.v": {**use, "effective_rank": 1.0}, "none": dict.fromkeys(use)}
    run.write_json("rank_utilisation.json", {"sites": sites})
    run.write_json("memory.json", {"measured_peak_mb": 700.5, "device": "cpu", "measured": {"weights": 1.0}})
    run.write_json("efficiency.json", {"step_gflop": 2.5, "energy_j": None})
    run.write_json("gradient_flow.json", {"events": [{"kind": "vanishing"}], "steps": [1]})
    run.write_json("merge.json", {"largest_difference": 1e-7})
    fixed: dict[str, Any] = {
        "metrics": {"validation": {"accuracy": 0.6}, "test": {"accuracy": 0.5, "loss": None}},
        "higher_is_better": {"accuracy": True}, "steps": STEPS, "epochs": 2.0, "parameters": {}, "memory": {},
        "time": {"train_s": 0.6, "device": "cpu"}, "flags": ["a flag"], "resumed": 0,
    }  # fmt: skip
    return RunResults(run_id=run.run_id, **{**fixed, **changes})


def track(run: RunFolder, *specs: Any, attempt: str = "") -> Tracking:
    """Begin to follow the record, with all the time that a machine under load may need."""
    patient = [{"name": spec, "timeout_s": 900.0} if isinstance(spec, str) else {"timeout_s": 900.0, **spec} for spec in specs]
    tracking = Tracking(patient, run, run.config(), attempt)
    tracking.begin()
    return tracking


def begun(tracking: Tracking) -> Tracking:
    """Wait until its only tracker writes."""
    ((tracker, process),) = tracking.processes
    place, limit_s = tracking.folder.path.parents[2] / "trackers", time.monotonic() + 120
    while not any(place.glob(BEGUN[tracker.name])):
        assert process.poll() is None, "the tracker's process has ended"
        assert time.monotonic() < limit_s, f"nothing is at {BEGUN[tracker.name]} of {[*place.rglob('*')]}: see BEGUN in stores.py"
        time.sleep(0.05)
    return tracking


def tracked(run: RunFolder, *specs: Any, status: Status = "completed", attempt: str = "", **changes: Any) -> list[str]:
    """Follow the record as it lies there to the end; returns the notes."""
    ended = results(run, status=status, **changes) if status in ("completed", "diverged") else None
    return track(run, *specs, attempt=attempt).end(status, ended)


def left(run: RunFolder, *specs: Any) -> None:
    """Follow the record as it lies there; the run is stopped and does not wait."""
    begun(track(run, *specs)).leave("interrupted")
