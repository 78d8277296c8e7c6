"""A folder of made-up records of a study with quantized arms: numbers from one seed to exercise the analysis; no results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.report.fixtures import STUDY, Options, write_results

SCHEMES: dict[str, dict[str, Any]] = {
    "float": {"name": "none"},
    "int8": {"name": "bnb", "bits": 8},
    "nf4": {"name": "bnb", "bits": 4, "type": "nf4", "double": False},
    "nf4-double": {"name": "bnb", "bits": 4, "type": "nf4", "double": True},
}
RANKS = (2, 8)
#: scheme -> (accuracy lost at the lowest rank, bits per parameter, relative weight error)
COSTS = {"float": (0.0, 32.0, 0.0), "int8": (0.001, 8.1, 0.008), "nf4": (0.03, 4.5, 0.092), "nf4-double": (0.031, 4.13, 0.092)}
#: scheme -> schedule that its made-up history follows
SCHEDULES = {"nf4": "linear", "int8": "constant"}
STEPS, HALF = 40, 20
PARAMETERS, REST_BYTES = 400_000, 240_000


def arm(scheme: str, rank: int) -> str:
    return f"lora{rank}-{scheme}"


ARMS = {arm(s, r): {"adapter": {"name": "lora", "rank": r}, "quantizer": dict(q)} for s, q in SCHEMES.items() for r in RANKS}
STUDY_QUANTIZED: dict[str, Any] = {
    **{key: value for key, value in STUDY.items() if key != "tune"},
    "study": "quantized",
    "question": "What does a quantized base cost?",
    "arms": {"probe": {"adapter": "linear-probe"}, **ARMS},
    "analysis": {"metric": "accuracy", "baseline": "lora8-float"},
}


def level(scheme: str, rank: int) -> tuple[float, float, int, float, float]:
    cost, bits, _ = COSTS[scheme]
    accuracy = 0.95 + 0.01 * np.log2(rank / 2) - cost * (1 if rank == 2 else 0.5)
    return accuracy, 0.003, 3_000 * rank, 40 + bits, 9.0


LEVELS = {"probe": (0.92, 0.004, 970, 31.0, 3.2)} | {arm(s, r): level(s, r) for s in SCHEMES for r in RANKS}


def write_quantized(root: Path, seeds: tuple[int, ...] = (0, 1, 2, 3, 4), **options: Any) -> Path:
    """``root/quantized`` with records, each with its ``memory.json`` and, where it is quantized, its analysis."""
    settings = {"failed": (), "diverged": (), "flags": {}, **options}
    folder = write_results(root, Options(study={**STUDY_QUANTIZED, "seeds": list(seeds)}, levels=LEVELS, **settings))
    random = np.random.default_rng(5)
    for path in sorted((folder / "runs").glob("*/*/results.json")):
        label = path.parent.parent.name
        scheme = label.split("-", 1)[1] if label != "probe" else "float"
        weights = (PARAMETERS * COSTS[scheme][1] / 8 + REST_BYTES) / 1e6
        peak = 600 + weights + 8 + 0.05 * random.normal()
        memory = {
            "measured_peak_mb": peak, "predicted_peak_mb": peak * 0.97, "tensors_mb": {"weights": weights},
            "measured": {"process": 600.0},
        }  # fmt: skip
        (path.parent / "memory.json").write_text(json.dumps(memory))
        if scheme != "float":
            rank = int(label[4])
            (path.parent / "quantization_analysis.json").write_text(json.dumps(analysis(scheme, rank, random)))
        if scheme in SCHEDULES:
            (path.parent / "quantization_history.json").write_text(json.dumps(history(SCHEDULES[scheme], random)))
    return folder


def analysis(scheme: str, rank: int, random: np.random.Generator) -> dict[str, Any]:
    _, bits, error = COSTS[scheme]
    stored, whole = PARAMETERS * bits / 8, 4 * PARAMETERS
    return {
        "scheme": scheme,
        "layers": {f"blocks.{b}.q": {"weight_error": error * (1 + 0.01 * random.normal())} for b in range(4)},
        "converted": {"bits_per_parameter": bits},
        "model": {
            "stored_bytes": stored + REST_BYTES,
            "float_bytes": whole + REST_BYTES,
            "times_smaller_than_float": (whole + REST_BYTES) / (stored + REST_BYTES),
        },
        "process_mb": {"before": 640.0 + 0.1 * random.normal(), "after": 620.0},
        "outputs": {"relative_error": error * 2 * float(np.exp(0.1 * random.normal()))},
        "gradient": {"relative_error": error * 3, "cosine": 1 - error},
        "cancellation": {"sites": {}, "cancelled": -0.2, "aligned": 2e-4 * rank, "bound": 0.02 * rank},
    }


def history(schedule: str, random: np.random.Generator) -> dict[str, Any]:
    """Four layers whose updates grow from 0.01 to 0.5, 1, 1.5 and 2 times the error."""
    constant, entries = schedule == "constant", []
    for step in range(0, STEPS, 3):
        grown = [0.01 + (0.5 * (b + 1) - 0.01) * step / (STEPS - 1) for b in range(4)]
        balance = {f"blocks.{b}.q": value * float(np.exp(0.01 * random.normal())) for b, value in enumerate(grown)}
        entries.append({"step": step, "rho": 1.0 if constant else min(1.0, step / HALF), "balance": balance})
    return {
        "quantizer": {"name": "groupwise", "schedule": schedule},
        "float_weights": {"resident_until_step": 0 if constant else HALF, "bytes": 0 if constant else 4 * PARAMETERS},
        "layers": {},
        "history": entries,
    }
