"""Predicted against measured peak memory and step time.

    python benchmarks/memory_prediction.py [--output FILE] [--only TEXT] [--cache FOLDER]

Real runs through the program's own plan and fork server, one process each, a few steps long; prints JSON. Backbones have random
weights (memory does not depend on them) and are written to a temporary folder; the data are scikit-learn's digits, resized.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import report
from rich.console import Console

from peftlab.execution.bars import listener_for
from peftlab.execution.local import WorkerOptions, execute
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.records.store import ResultsFolder
from peftlab.study.load import dump, validate_study

STEPS = 6
LORA = {"name": "lora", "rank": 8, "targets": "standard"}
ALL = {"name": "lora", "rank": 8, "targets": "all-linear"}
POOLED = {"name": "pooled", "rank": 8, "targets": "standard"}
CHECKPOINTING = {"gradient_checkpointing": True}
#: (backbone, pixels) -> arms
SETS: dict[tuple[str, int], dict[str, dict[str, Any]]] = {
    ("timm-vit-tiny", 96): {
        "full-b16": {"adapter": "full", "batch_size": 16},
        "probe-b64": {"adapter": "linear-probe", "batch_size": 64},
        "lora-b64": {"adapter": LORA, "batch_size": 64},
        "all-b64": {"adapter": ALL, "batch_size": 64},
        "full-b64-checkpointing": {"adapter": "full", "batch_size": 64, **CHECKPOINTING},
    },
    ("timm-vit-tiny", 224): {
        "full-b16": {"adapter": "full", "batch_size": 16},
        "probe-b64": {"adapter": "linear-probe", "batch_size": 64},
        "lora-b16": {"adapter": LORA, "batch_size": 16},
        "lora-b64": {"adapter": LORA, "batch_size": 64},
        "all-b16-checkpointing": {"adapter": ALL, "batch_size": 16, **CHECKPOINTING},
    },
    ("timm-vit-small", 96): {
        "lora-b16": {"adapter": LORA, "batch_size": 16},
        "lora-int8-b16": {"adapter": LORA, "quantizer": {"name": "bnb", "bits": 8}, "batch_size": 16},
        "lora-nf4-b16": {"adapter": LORA, "quantizer": {"name": "bnb", "bits": 4}, "batch_size": 16},
        "lora-nf4-double-b64": {"adapter": LORA, "quantizer": {"name": "bnb", "bits": 4, "double": True}, "batch_size": 64},
        "qa-int4-b16": {"adapter": POOLED, "quantizer": {"name": "groupwise", "type": "int4"}, "batch_size": 16},
        "qa-int8-linear-b16": {
            "adapter": POOLED,
            "quantizer": {"name": "groupwise", "type": "int8", "schedule": "linear"},
            "batch_size": 16,
        },
    },
    ("transformers-vit", 96): {
        "full-b64": {"adapter": "full", "batch_size": 64},
        "lora-b16": {"adapter": LORA, "batch_size": 16},
        "all-b64": {"adapter": ALL, "batch_size": 64},
        "all-b64-checkpointing": {"adapter": ALL, "batch_size": 64, **CHECKPOINTING},
        "full-b16-of-64": {"adapter": "full", "batch_size": 16, "effective_batch_size": 64},
    },
}


def backbone(kind: str, folder: Path) -> str:
    """Write a backbone with random weights."""
    path = folder / kind
    path.mkdir()
    if kind.startswith("timm-"):
        import timm
        from safetensors.torch import save_file

        architecture = kind.removeprefix("timm-").replace("-", "_") + "_patch16_224"
        save_file(timm.create_model(architecture).state_dict(), path / "model.safetensors")
        (path / "config.json").write_text(json.dumps({"architecture": architecture, "num_classes": 1000}))
    else:
        from transformers import ViTConfig, ViTForImageClassification

        sizes = {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 1024}
        ViTForImageClassification(ViTConfig(**sizes, image_size=96, patch_size=16, num_labels=10)).save_pretrained(path)
    return str(path)


def run_set(kind: str, pixels: int, arms: dict[str, Any], folder: Path, weights: str, cache: Path) -> list[dict[str, Any]]:
    """Plan and run one set of arms; one row each."""
    study = validate_study(
        {
            "study": f"{kind}-{pixels}",
            "backbone": weights,
            "task": {
                "kind": "image-classification",
                "data": "digits",
                "image_size": pixels,
                "train_size": 512,
                "validation_size": 16,
                "test_size": 64,
            },
            "seeds": [0],
            "train": {"max_steps": STEPS, "epochs": 100, "learning_rate": 1e-3, "evaluate_every": 100},
            "arms": arms,
        }
    )
    begin = time.perf_counter()
    plan = make_plan(study, PlanOptions(cache=cache, device="cpu"))
    planned_s = (time.perf_counter() - begin) / len(arms)
    results = ResultsFolder(folder / study.study)
    results.open_or_create(dump(study))
    configs = [run.config for run in plan.runs if run.config]
    options = WorkerOptions(cache=cache, device="cpu", checkpoint_every_s=1e9)
    execute(results, configs, jobs=1, options=options, listener=listener_for(Console(stderr=True)))
    rows = []
    for run in plan.runs:
        assert run.config and run.estimate
        found = results.run(run.config).results()
        if found is None:
            raise SystemExit(f"{run.label} failed: {results.run(run.config).error()}")
        predicted, memory = run.estimate, found.memory
        base = predicted.parts_mb["process"]
        step_s = found.time["step_ms_median"] / 1000
        micro = (run.config.train["effective_batch_size"] or run.config.train["batch_size"]) // run.config.train["batch_size"]
        rows.append(
            {
                "configuration": f"{kind} {pixels} px {run.label}",
                "predicted_peak_mb": round(predicted.peak_mb, 1),
                "measured_peak_mb": memory["measured_peak_mb"],
                "ratio": round(predicted.peak_mb / memory["measured_peak_mb"], 4),
                "ratio_without_process": round(
                    (predicted.peak_mb - base) / (memory["measured_peak_mb"] - memory["measured"]["process"]), 4
                ),
                "process_peak_mb": memory["process_peak_mb"],
                "predicted": {name: round(value, 1) for name, value in predicted.parts_mb.items()},
                "measured": {name: round(value, 1) for name, value in memory["measured"].items()},
                "predicted_step_s": round(predicted.step_time_s * micro, 4),
                "measured_step_s": round(step_s, 4),
                "step_ratio": round(predicted.step_time_s * micro / step_s, 3),
                "plan_s": round(planned_s, 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="sets whose name contains this")
    parser.add_argument("--cache", type=Path, help="where this machine's figures already are; default: measured anew")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made: dict[str, str] = {}
        for (kind, pixels), arms in SETS.items():
            if options.only in f"{kind}-{pixels}":
                made.setdefault(kind, "") or made.update({kind: backbone(kind, folder)})
                rows += run_set(kind, pixels, arms, folder, made[kind], options.cache or folder / "cache")
    errors = [abs(row["ratio"] - 1) for row in rows]
    report(
        "memory_prediction",
        options.output,
        ("torch", "transformers", "peft", "timm"),
        {"steps": STEPS},
        configurations=rows,
        largest_error=round(max(errors), 4),
        median_error=round(statistics.median(errors), 4),
        median_error_without_process=round(statistics.median(abs(row["ratio_without_process"] - 1) for row in rows), 4),
    )


if __name__ == "__main__":
    main()
