"""A results folder as a study of seven arms leaves it, written through the record models. Everything follows from one seed.

The numbers are made up to exercise the analysis; they are no results and appear nowhere but in tests.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from peftlab.records.record import MetricLine, RunConfig, RunError, RunResults, to_json
from peftlab.study.expand import Cell, cells
from peftlab.study.load import validate_study
from peftlab.study.schema import Study

STUDY: dict[str, Any] = {
    "study": "fixture",
    "question": "How few parameters keep the accuracy of full fine-tuning on the digits?",
    "source": "tests/report/fixtures.py",
    "backbone": "bundled:vit-nano",
    "task": {"kind": "image-classification", "data": "digits"},
    "seeds": [0, 1, 2, 3, 4],
    "train": {"epochs": 5, "batch_size": 64},
    "arms": {
        "full": {"adapter": "full", "learning_rate": 3e-4},
        "linear-probe": {"adapter": "linear-probe", "learning_rate": 1e-2},
        "bitfit": {"adapter": "bitfit"},
        "lora": {"adapter": {"name": "lora", "rank": [2, 8, 32], "targets": "standard"}},
        "lora-all": {"adapter": {"name": "lora", "rank": 8, "targets": "all-linear"}},
    },
    "tune": {"learning_rate": [3e-4, 1e-3, 3e-3], "seeds": [100, 101]},
    "analysis": {"metric": "accuracy", "baseline": "full", "margin": {"relative": 0.03}},
}
TOTAL = 460_000
#: label -> (mean accuracy, sd, trainable, peak MB, seconds)
LEVELS: dict[str, tuple[float, float, int, float, float]] = {
    "full": (0.975, 0.003, 451_594, 66.0, 11.0),
    "linear-probe": (0.921, 0.004, 970, 31.0, 3.2),
    "bitfit": (0.958, 0.004, 5_386, 48.0, 8.1),
    "lora[rank=2]": (0.961, 0.004, 4_042, 47.0, 8.4),
    "lora[rank=8]": (0.970, 0.003, 13_258, 47.6, 8.6),
    "lora[rank=32]": (0.972, 0.003, 50_122, 49.5, 9.1),
    "lora-all": (0.974, 0.003, 56_266, 55.0, 10.2),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What sets a test's folder apart from the plain one."""

    study: dict[str, Any] = dataclasses.field(default_factory=lambda: STUDY)
    levels: dict[str, tuple[float, float, int, float, float]] = dataclasses.field(default_factory=lambda: LEVELS)
    failed: tuple[tuple[str, int], ...] = (("bitfit", 3),)
    diverged: tuple[tuple[str, int], ...] = (("lora[rank=32]", 4),)
    skip: tuple[tuple[str, int], ...] = ()
    flags: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: {"lora-all": ["micro-batch halved after out-of-memory"]}
    )
    folds: int = 1
    seed: int = 20260101


def write_results(root: Path, options: Options | None = None) -> Path:
    """``root/<study>`` filled with records; returns that folder."""
    options = options or Options()
    study = validate_study(options.study)
    folder = root / study.study
    folder.mkdir(parents=True)
    with (folder / "study.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(options.study, stream)
    generator = np.random.default_rng(options.seed)
    shared = {(seed, fold): generator.normal() for seed in study.seeds for fold in range(options.folds)}
    plan = []
    for cell in cells(study):
        for (seed, fold), common in shared.items():
            if (cell.label, seed) in options.skip:
                continue
            plan.append(_write_run(folder, study, cell, (seed, fold), common, generator, options))
    (folder / "plan.json").write_text(to_json({"study": study.study, "runs": plan, "notes": []}), encoding="utf-8")
    if study.tune:
        _write_tuning(folder, study, options.folds, generator)
    return folder


def write_unlike_settings(root: Path) -> Path:
    """Digits without folds on seeds 1 and 2, letters in two folds on seeds 0 and 1."""
    tasks = [{"kind": "image-classification", "data": "digits"}, {"kind": "image-classification", "data": "letters", "folds": 2}]
    arms = {label: STUDY["arms"][label] for label in ("full", "linear-probe", "bitfit")}
    study = {**STUDY, "seeds": [0, 1, 2], "arms": arms, "tune": None, "matrix": {"task": tasks}}
    folder = write_results(root, Options(study=study, failed=(), diverged=(), flags={}, folds=2))
    for path in folder.glob("runs/*/*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        letters = config["task"]["data"] == "letters"
        if config["seed"] == 2 if letters else config["seed"] == 0 or config["fold"]:
            shutil.rmtree(path.parent)
    return folder


def config_of(study: Study, cell: Cell, seed: int, fold: int = 0) -> RunConfig:
    """As the planner would make it of a study of this file."""
    return RunConfig(
        study=study.study, arm=cell.arm, label=cell.label, slug=cell.slug, factors=dict(cell.factors), backbone=cell.backbone,
        backbone_fingerprint="ab" * 32, task={"image_size": None, **cell.task}, data_fingerprint="cd" * 32,
        adapter=dict(cell.adapter), allocator=dict(cell.allocator) if cell.allocator else None,
        quantizer=dict(cell.quantizer), train=cell.train.model_dump(),
        seed=seed, fold=fold, tuned={"learning_rate": cell.train.learning_rate} if study.tune else {},
    )  # fmt: skip


def _write_run(
    folder: Path, study: Study, cell: Cell, unit: tuple[int, int], common: float, generator: np.random.Generator, options: Options
) -> dict[str, Any]:
    seed, fold = unit
    config = config_of(study, cell, seed, fold)
    run = folder / "runs" / cell.slug / config.run_id
    run.mkdir(parents=True)
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    environment = {"packages": {"torch": "2.14.1", "peft": "0.21.2"}, "device": "cpu", "threads": 1, "python": "3.11.9"}
    (run / "environment.json").write_text(to_json(environment), encoding="utf-8")
    mean, sd, trainable, peak, seconds = options.levels[cell.label]
    value = float(np.clip(mean + sd * (0.6 * common + 0.8 * generator.normal()), 0.0, 1.0))
    entry = {"run_id": config.run_id, "label": cell.label, "backbone": cell.backbone, "seed": seed, "refusal": None}
    if (cell.label, seed) in options.failed:
        about = {
            "type": "OutOfMemory",
            "what": "the device ran out of memory in step 7",
            "where": "train",
            "remedy": "halve batch_size",
        }
        (run / "error.json").write_text(to_json(RunError(run_id=config.run_id, error=about, step=7)), encoding="utf-8")
        return entry
    diverged = (cell.label, seed) in options.diverged
    _write_curve(run, value, seconds, diverged, generator)
    measured = peak * float(1 + 0.01 * generator.normal())
    results = RunResults(
        run_id=config.run_id,
        status="diverged" if diverged else "completed",
        metrics={
            "test": {"accuracy": None if diverged else value, "loss": None if diverged else 1.2 - value, "top5_accuracy": 0.999},
            "validation": {"accuracy": None if diverged else value + 0.002, "loss": None if diverged else 1.19 - value},
        },
        higher_is_better={"accuracy": True, "loss": False, "top5_accuracy": True},
        chance={"accuracy": 0.1, "loss": math.log(10)}, majority={"accuracy": 0.102},
        steps=0 if cell.train.max_steps == 0 else 85, epochs=5.0, selected_step=85,
        parameters={"total": TOTAL, "trainable": trainable, "trainable_percent": 100 * trainable / TOTAL, "head": 970,
                    "adapter": trainable - 970},
        memory={"measured_peak_mb": measured, "predicted_peak_mb": peak * 1.03, "mean_mb": 0.8 * peak},
        time={"train_s": seconds * float(1 + 0.03 * generator.normal()), "step_ms_median": 40.0, "total_s": seconds + 2},
        splits={"train": 1077, "validation": 360, "test": 360}, flags=options.flags.get(cell.label, []),
    )  # fmt: skip
    (run / "results.json").write_text(to_json(results), encoding="utf-8")
    return entry


def _write_curve(run: Path, value: float, seconds: float, diverged: bool, generator: np.random.Generator) -> None:
    lines = []
    for epoch in range(1, 6):
        share = 1 - math.exp(-(0.4 + 0.7 * seconds / 11.0) * epoch)
        noise = 0.003 * generator.normal()
        broken = diverged and epoch >= 3
        common = {"step": 17 * epoch, "epoch": float(epoch), "time_s": seconds * epoch / 5}
        lines.append(MetricLine(split="train", loss=None if broken else 2.3 * (1 - share * value) + 0.03 + noise, **common))
        accuracy = 0.1 if broken else value * share + noise
        extra: dict[str, Any] = {"accuracy": accuracy}
        lines.append(
            MetricLine(split="validation", loss=None if broken else 2.3 * (1 - share * value) + 0.06 + noise, **common, **extra)
        )
    text = "".join(json.dumps(line.model_dump(mode="json")) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")


def _write_tuning(folder: Path, study: Study, folds: int, generator: np.random.Generator) -> None:
    assert study.tune is not None
    trials, chosen = [], []
    for cell, fold in itertools.product(cells(study), range(folds)):
        arm = {"label": cell.label, "backbone": cell.backbone} | ({"fold": fold} if fold else {})
        for rate in study.tune.grid["learning_rate"]:
            for seed in study.tune.seeds:
                level = LEVELS[cell.label][0] if cell.label in LEVELS else 0.95
                value = None if (cell.label, rate) == ("full", 3e-3) else level - abs(math.log10(rate) + 3) * 0.02
                noise = 0.001 * generator.normal()
                about = {**arm, "values": {"learning_rate": rate}, "seed": seed}
                trials.append({**about, "value": None if value is None else value + noise})
        best = [t["value"] for t in trials if arm.items() <= t.items() and t["values"] == {"learning_rate": 1e-3}]
        best = best[-len(study.tune.seeds) :]  # of this fold
        about = {**arm, "values": {"learning_rate": 1e-3}}
        chosen.append({**about, "mean": float(np.mean(best)), "at_edge": [], "lost": 0, "trials": len(best)})
    about = {"grid": study.tune.grid, "seeds": study.tune.seeds, "metric": "accuracy", "on": "validation"}
    form = {**about, "trials": trials, "chosen": chosen}
    (folder / "tuning.json").write_text(to_json(form), encoding="utf-8")
