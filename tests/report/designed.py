"""A folder of three tasks, two factors and single predictions: everything that is said beyond each arm against the baseline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.report.fixtures import STUDY, Options, write_results

ARMS: dict[str, Any] = {
    "full": {"adapter": "full", "learning_rate": 3e-4},
    "bitfit": {"adapter": "bitfit"},
    "lora": {"adapter": {"name": "lora", "rank": [2, 4, 8], "targets": ["standard", "all-linear"]}},
}
LEVELS = {"full": (0.97, 0.003, 450_000, 66.0, 11.0), "bitfit": (0.95, 0.003, 5_386, 48.0, 8.1)} | {
    f"lora[rank={rank},targets={targets}]": (0.90 + 0.01 * step + bonus, 0.003, 1000 * rank, 40.0, 8.0)
    for step, rank in enumerate((2, 4, 8))
    for targets, bonus in (("standard", 0.0), ("all-linear", 0.02))
}


def write_design(root: Path, seeds: int = 3, tasks: int = 3) -> Path:
    """BitFit is missing on the first task; lora[rank=8,targets=all-linear] diverges once."""
    sizes = [{"kind": "image-classification", "data": "digits", "image_size": 32 + 8 * i} for i in range(tasks)]
    study = {k: v for k, v in STUDY.items() if k != "tune"}
    study |= {"arms": ARMS, "matrix": {"task": sizes}, "seeds": list(range(seeds))}
    diverged = (("lora[rank=8,targets=all-linear]", 0),)
    folder = write_results(root, Options(study=study, levels=LEVELS, failed=(), diverged=diverged, flags={}))
    generator = np.random.default_rng(8)
    label, hard = generator.integers(0, 10, 400), generator.random(400)
    for path in sorted(folder.glob("runs/*/*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["label"] == "bitfit" and config["task"]["image_size"] == 32:
            shutil.rmtree(path.parent)
            continue
        results = json.loads(path.with_name("results.json").read_text(encoding="utf-8"))
        reached = results["metrics"]["test"]["accuracy"] or 0.1
        right = np.argsort(np.argsort(hard + 0.05 * generator.normal(size=400))) < round(400 * reached)
        np.savez(path.with_name("predictions.npz"), label=label, prediction=np.where(right, label, (label + 1) % 10))
    return folder
