"""A small study that is tuned, and records of its runs as a worker leaves them, with scores that a formula gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftlab.planning.plan import Plan, PlanOptions
from peftlab.planning.planner import Planner
from peftlab.records.record import RunConfig, RunError, RunResults
from peftlab.records.store import ResultsFolder
from peftlab.study.load import validate_study
from peftlab.study.schema import Study
from peftlab.tuning import choice

TUNE: dict[str, Any] = {
    "sampler": "tpe",
    "trials": 12,
    "seeds": [100, 101],
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "adapter.rank": {"low": 1, "high": 8},
}


def study(backbone: str, **changes: Any) -> Study:
    return validate_study(
        {
            "study": "tuned",
            "backbone": backbone,
            "task": {"kind": "image-classification", "data": "digits", "train_size": 64, "validation_size": 40, "test_size": 40},
            "seeds": [0],
            "train": {"epochs": 1, "batch_size": 32},
            "arms": {"full": {"adapter": "full"}, "lora": {"adapter": "lora"}},
            "tune": TUNE,
            "analysis": {"baseline": "full"} if "full" in changes.get("arms", ["full"]) else {},
            **changes,
        }
    )


def planner(asked: Study, cache: Path) -> Planner:
    return Planner(asked, PlanOptions(cache=cache, predict=False, device="cpu"))


def accuracy(config: RunConfig) -> float:
    """Best at 1e-2 (full fine-tuning: 1e-3), a little different for every seed."""
    best = -3 if config.adapter["name"] == "full" else -2
    return 0.9 - 0.05 * (math.log10(config.train["learning_rate"]) - best) ** 2 + 0.001 * (config.seed - 100)


def outstanding(folder: ResultsFolder, plan: Plan) -> list[RunConfig]:
    """Tuning runs without an outcome, each once."""
    found = {config.run_id: config for config in choice.configs(plan)}
    return [config for config in found.values() if folder.run(config).status() not in ("finished", "failed")]


def finish(folder: ResultsFolder, config: RunConfig, value: Callable[[RunConfig], float | None] = accuracy) -> None:
    """The record of a run that reached a value; None: diverged."""
    reached = value(config)
    folder.run(config).create(config).finish(
        RunResults(
            run_id=config.run_id, status="completed" if reached is not None else "diverged",
            metrics={"validation": {"accuracy": reached}} if reached is not None else {},
            higher_is_better={"accuracy": True}, steps=2, epochs=1.0, parameters={}, memory={},
            time={"train_s": 2.0, "evaluate_s": 0.5},
        )
    )  # fmt: skip


def fail(folder: ResultsFolder, config: RunConfig) -> None:
    error = {"type": "OutOfMemory", "what": "no memory", "where": "", "remedy": "less"}
    folder.run(config).create(config).fail(RunError(run_id=config.run_id, error=error))
