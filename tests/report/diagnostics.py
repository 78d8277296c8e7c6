"""What a fixture's runs recorded of what training changed: made up from one seed to exercise the analysis; no results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS, ROLES = 4, ("q", "v")
#: slug of the arm -> how far it moved
ARMS = {"full": 0.5, "lora.rank-2": 0.1, "lora.rank-8": 0.2, "lora-all": 0.3}
PRODUCTS = ("lora.rank-2", "lora.rank-8", "lora-all")
SITES: dict[str, dict[str, Any]] = {f"blocks.{b}.{r}": {"block": b, "role": r} for b in range(BLOCKS) for r in ROLES}


def write_diagnostics(folder: Path, arms: dict[str, float] | None = None, seed: int = 5) -> None:
    """The five files in every finished run of these arms; of spectra only where the arm has factors."""
    random = np.random.default_rng(seed)
    for slug, size in (ARMS if arms is None else arms).items():
        for path in sorted((folder / "runs" / slug).glob("*/results.json")):
            run, product = path.parent, slug in PRODUCTS
            _write(run, "adapter_norms", norms(random, size, product))
            _write(run, "representation", representation(random, size))
            _write(run, "merge_equivalence", merge(random) if product else {"left_out": "nothing was added"})
            _write(run, "base_check", {"tensors": 12, "bytes": 4_000_000, "sha256": "ab" * 32, "unchanged": True})
            if product:
                _write(run, "rank_utilisation", {"sites": {site: spectrum(random, about) for site, about in SITES.items()}})
            results = json.loads(path.read_text())
            results["time"]["hooks_s"] = {"representation": 0.01 * results["time"]["total_s"], "parameters": 5.0}
            path.write_text(json.dumps(results))


def _write(run: Path, name: str, content: dict[str, Any]) -> None:
    (run / f"{name}.json").write_text(json.dumps(content))


def norms(random: np.random.Generator, size: float, product: bool) -> dict[str, Any]:
    modules = {}
    for site, about in SITES.items():
        relative = size * float(np.exp(0.2 * about["block"] + 0.1 * random.normal()))
        modules[site] = {**about, "weight": 10.0, "end": {"A": 1.0, "B": 0.5, "update": 10 * relative, "relative": relative}}
    return {"of": "product" if product else "weights", "steps": [], "modules": modules, "summary": {}}


def representation(random: np.random.Generator, size: float) -> dict[str, Any]:
    blocks = []
    for number in range(BLOCKS):
        drift = size * (number + 1) * float(np.exp(0.1 * random.normal()))
        blocks.append({"block": number, "cka": float(np.exp(-drift)), "cka_biased": 1.0, "drift": drift, "cosine": 1 - drift / 9})
    return {"split": "validation", "examples": 64, "token": "class", "reference": "backbone", "blocks": blocks}


def merge(random: np.random.Generator) -> dict[str, Any]:
    relative = float(1e-6 * np.exp(random.normal()))
    latency = [{"rows": rows, "adapter_ms": 1.2 * rows, "merged_ms": 1.0 * rows, "repeats": 9} for rows in (1, 8)]
    return {
        "max_difference": 3 * relative, "relative": relative, "tolerance": 1e-4, "within": True, "latency": latency, "threads": 1,
    }  # fmt: skip


def spectrum(random: np.random.Generator, about: dict[str, Any], rank: int = 6) -> dict[str, Any]:
    values = np.sort(np.exp(-0.5 * np.arange(rank) + 0.1 * random.normal(size=rank)))[::-1]
    return {
        **about, "rank": rank, "singular_values": values.tolist(), "effective_rank": 3.0, "rank_90": 4, "share_in_use": 0.5,
    }  # fmt: skip
