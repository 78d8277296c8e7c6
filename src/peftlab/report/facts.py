"""What the report tells beside the findings: machine and versions, how to reproduce."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from peftlab.analysis.frame import Frame
from peftlab.analysis.reading import flatten, read_json

#: kept in the records, but of no use to a reader or of a kind that changes with every run
_LEFT_OUT = ("host", "command", "packages", "packages_sha256", "variables", "time", "started", "pid", "boot_id")
_MAIN_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "timm",
    "bitsandbytes",
    "numpy",
    "scipy",
    "pandas",
    "safetensors",
)


def environment(frame: Frame) -> dict[str, Any]:
    """Environment of the runs: ``same`` for what all share, ``differs`` for what not, ``runs`` read."""
    seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    count = 0
    for where in frame.rows["folder"].drop_duplicates():
        data = read_json(frame.folder / str(where) / "environment.json")
        if not isinstance(data, Mapping):
            continue
        count += 1
        packages = data.get("packages")
        versions = (
            {f"package {k}": v for k, v in packages.items() if k in _MAIN_PACKAGES} if isinstance(packages, Mapping) else {}
        )
        kept = {k: v for k, v in data.items() if k not in _LEFT_OUT}
        for key, value in {**flatten(kept), **versions}.items():
            seen[key][_text(value)] += 1
    same = {key: next(iter(values)) for key, values in seen.items() if len(values) == 1 and next(iter(values))}
    differs = {key: dict(values) for key, values in seen.items() if len(values) > 1}
    return {"same": same, "differs": differs, "runs": count}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:199] + "…"


def fingerprints(frame: Frame) -> list[dict[str, str]]:
    """Per setting: hashes of backbone and data as recorded."""
    found = []
    for task, backbone in frame.settings:
        rows = frame.rows[(frame.rows["task"] == task) & (frame.rows["backbone"] == backbone)]
        config = read_json(frame.folder / str(rows["folder"].iloc[0]) / "config.json")
        if isinstance(config, Mapping):
            about = {k: str(config.get(f"{k}_fingerprint", "")) for k in ("backbone", "data")}
            found.append({"task": task, "name": backbone, **about})
    return found


def study_text(frame: Frame) -> tuple[str, str]:
    """study.yaml and its SHA-256."""
    raw = (frame.folder / "study.yaml").read_bytes()
    return raw.decode("utf-8", errors="replace"), hashlib.sha256(raw).hexdigest()
