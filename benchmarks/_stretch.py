"""A results folder with as many records as asked for, made of those of a small one: arms and seeds repeated, values jittered.

What comes out is no result; it has the shape and the size of one.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from peftlab.records.record import RunConfig
from peftlab.study.train import Train

REWRITTEN = ("config.json", "results.json", "MANIFEST.json")


def stretch(source: Path, target: Path, records: int, seeds: int = 10) -> int:
    """Fill ``target`` with at least ``records`` runs over ``seeds`` seeds; returns how many.

    A copy of an arm is named after it with a number and has a learning rate of its own, so that every run has its own id.
    """
    yaml = YAML(typ="safe", pure=True)
    study = yaml.load((source / "study.yaml").read_text(encoding="utf-8"))
    originals: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(source.glob("runs/*/*/config.json")):
        originals[path.parent.parent.name].append(path.parent)
    copies = -(-records // (len(originals) * seeds))
    usual = study.get("train", {}).get("learning_rate", Train().learning_rate)
    study["arms"] = {
        f"{name}-{k}": {**copy.deepcopy(arm), "learning_rate": arm.get("learning_rate", usual) * (1 + k / 1000)}
        for name, arm in study["arms"].items()
        for k in range(copies)
    }
    study["analysis"]["baseline"] = f"{study['analysis']['baseline']}-0"
    study["seeds"] = list(range(seeds))
    study.pop("tune", None)
    target.mkdir(parents=True)
    YAML().dump(study, target / "study.yaml")
    noise, count = random.Random(1), 0
    for slug, folders in originals.items():
        for k in range(copies):
            for seed in range(seeds):
                _copy(folders[seed % len(folders)], target / "runs", slug, k, seed, noise)
                count += 1
    return count


def _copy(folder: Path, runs: Path, slug: str, number: int, seed: int, noise: random.Random) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arm = config["arm"]
    config |= {"arm": f"{arm}-{number}", "label": config["label"].replace(arm, f"{arm}-{number}", 1)}
    config |= {"slug": slug.replace(arm, f"{arm}-{number}", 1), "seed": seed}
    config["train"]["learning_rate"] *= 1 + number / 1000
    record = RunConfig(**config)
    run = runs / record.slug / record.run_id
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = folder / "results.json"
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
        for values in results["metrics"].values():
            values |= {k: v * (1 - abs(noise.gauss(0, 0.004))) for k, v in values.items() if isinstance(v, float)}
        (run / "results.json").write_text(json.dumps({**results, "run_id": record.run_id}), encoding="utf-8")
    for other in folder.iterdir():
        if other.is_file() and other.name not in REWRITTEN and other.suffix in (".json", ".jsonl"):
            shutil.copy(other, run / other.name)
