"""What a fixture's runs recorded about their layers: made up from one seed to exercise the analysis; no results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS, ROLES = 12, ("q", "k", "v", "o", "up", "down")
SITES: dict[str, dict[str, Any]] = {
    f"blocks.{b}.{role}": {"block": b, "role": role, "d_in": 64 if role == "down" else 32, "d_out": 64 if role == "up" else 32}
    for b in range(BLOCKS)
    for role in ROLES
}
#: what a rank of LoRA costs there
PRICED = {
    n: {**a, "cost": [a["d_in"] + a["d_out"]] * 2 + [0], "largest_rank": min(a["d_in"], a["d_out"])} for n, a in SITES.items()
}
STEPS = [17, 34, 51, 68, 85]
METRICS = ("fisher", "sensitivity")
#: slug of the arm -> noise of its seeds
ARMS = {"lora.rank-8": 0.2, "lora-all": 3.0, "lora.rank-2": 0.1}
ADAPTIVE = "lora.rank-8"


def truth() -> np.ndarray:
    """Log importance: attention and late blocks matter more [sites]."""
    return np.array([0.12 * a["block"] + (1.0 if a["role"] in "qkvo" else 0.0) for a in SITES.values()])


def write_layers(folder: Path, arms: dict[str, float] | None = None, seed: int = 7) -> None:
    """``importance.json``, ``ranks.json`` and ``rank_utilisation.json`` in every finished run of these arms."""
    random = np.random.default_rng(seed)
    for slug, noise in (ARMS if arms is None else arms).items():
        for path in sorted((folder / "runs" / slug).glob("*/results.json")):
            own = truth() + noise * random.normal(size=len(SITES))
            metrics = {
                metric: {
                    site: [float(np.exp(v + random.normal() / step)) for step in STEPS]
                    for site, v in zip(SITES, own, strict=True)
                }
                for metric in METRICS
            }
            content = {"sites": PRICED, "steps": STEPS, "window": 1, "metrics": metrics}
            (path.parent / "importance.json").write_text(json.dumps(content))
            ranks = {site: 1 + int(5 * v) for site, v in zip(SITES, (own - own.min()) / np.ptp(own), strict=True)}
            results = json.loads(path.read_text())
            if slug == ADAPTIVE:
                _write_ranks(path.parent, ranks)
                results["parameters"]["at_end"] = {"trainable": results["parameters"]["head"] + price(ranks)}
            else:
                ranks = dict.fromkeys(SITES, 4)
            (path.parent / "rank_utilisation.json").write_text(json.dumps({"sites": {s: used(s, r) for s, r in ranks.items()}}))
            results["time"]["hooks_s"] = {"allocator": 0.02 * results["time"]["train_s"]}
            path.write_text(json.dumps(results))


def _write_ranks(run: Path, final: dict[str, int]) -> None:
    start = dict.fromkeys(SITES, 4)
    halfway = {site: (4 + rank + 1) // 2 for site, rank in final.items()}
    history = [
        {"step": 0, "ranks": start, "changed": False},
        {"step": 30, "ranks": halfway, "importance": dict.fromkeys(SITES, 0.5)},
        {"step": 60, "ranks": final, "importance": dict.fromkeys(SITES, 0.25)},
    ]
    spent = {"ranks": sum(final.values()), "parameters": price(final)}
    content = {
        "allocator": {"name": "top_k"},
        "effective_scale": 2.0,
        "ranks_at_start": start,
        "ranks": final,
        "history": history,
        "spent": spent,
    }
    (run / "ranks.json").write_text(json.dumps(content))


def price(ranks: dict[str, int]) -> int:
    """Parameters of LoRA at these ranks."""
    return sum(rank * (SITES[site]["d_in"] + SITES[site]["d_out"]) for site, rank in ranks.items())


def used(site: str, rank: int) -> dict[str, Any]:
    return {**SITES[site], "rank": rank, "effective_rank": 0.8 * rank, "rank_90": rank, "share_in_use": 0.8}
