"""What a fixture's runs recorded about their gradients: made up from one seed to exercise the analysis; no results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.records.gradient_flow import events

BLOCKS = 4
STEPS = [1, *range(5, 86, 5)]
#: slug of the arm -> size of its gradients
ARMS = {"lora.rank-2": 0.1, "lora.rank-8": 0.2, "lora-all": 0.3}


def write_gradients(folder: Path, arms: dict[str, float] | None = None, seed: int = 11) -> None:
    """``gradient_flow.json`` in every run of these arms; the first seed of the first explodes in its second module."""
    random = np.random.default_rng(seed)
    for slug, size in (ARMS if arms is None else arms).items():
        for number, path in enumerate(sorted((folder / "runs" / slug).glob("*/results.json"))):
            modules: dict[str, dict[str, Any]] = {
                f"blocks.{b}.{role}": _module(random, size * 1.5**b, b, role) for b in range(BLOCKS) for role in ("q", "v")
            }
            modules["head"] = _module(random, 1.0, None, "head")
            if number == 0 and slug == next(iter(arms or ARMS)):
                modules["blocks.0.v"]["norm"][10] *= 100
            content = {"steps": STEPS, "modules": modules, "events": events(STEPS, modules)}
            (path.parent / "gradient_flow.json").write_text(json.dumps(content))


def _module(random: np.random.Generator, size: float, block: int | None, role: str) -> dict[str, Any]:
    norm = size * np.geomspace(1, 0.3, len(STEPS)) * np.exp(0.1 * random.normal(size=len(STEPS)))
    zeros = np.where(np.array(STEPS) == 1, 0.5, 0.0)
    return {
        "block": block, "role": role, "norm": norm.tolist(), "mean": (norm / 20).tolist(), "max": (norm / 3).tolist(),
        "zeros": zeros.tolist(), "non_finite": [0.0] * len(STEPS),
    }  # fmt: skip
