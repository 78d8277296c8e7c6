"""What an allocator costs.

    python benchmarks/allocator_overhead.py [--output FILE] [--steps N] [--repeats N] [--weights FOLDER] [--only TEXT]

For every allocator that acts during training, two figures at its default frequency, as shares of a training step without it:

* ``in_hooks``: seconds in its hook (scores, masks, changes of rank), out of the run's training seconds;
* ``step_ratio``: median step with it over median step without it, the same adapter and the same ranks at the start (IncreLoRA,
  which starts with rank 1: the ranks it ends with), runs taken in turns. It holds what the hook cannot see, such as the backward
  pass of a penalty, and the ranks that changed.

And bytes of the adapter and its optimizer state at the end, counted and by the formula for the ranks at the end: where ranks
really change size, memory follows them; the triplets of AdaLoRA and SoRA stay and are only switched off. ViT-Tiny at 96 px, with
random weights unless a folder is named (time does not depend on them), batch 32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _vit import vit_tiny

from peftlab.adapters.contract import Adapted
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients, base_probe
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.optimizers import tensor_bytes

LORA = {"name": "lora", "rank": 8, "targets": "standard"}
SVD = {"name": "svd", "rank": 12, "targets": "standard"}  # AdaLoRA and SoRA start with these ranks: 1.5 times the budget
ALLOCATORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "proportional x magnitude": (LORA, {"name": "proportional", "importance": "magnitude"}),
    "threshold x gradient_norm": (LORA, {"name": "threshold", "importance": "gradient_norm"}),
    "top_k x fisher": (LORA, {"name": "top_k", "importance": "fisher"}),
    "proportional x sensitivity": (LORA, {"name": "proportional", "importance": "sensitivity"}),
    "proportional x spectral": (LORA, {"name": "proportional", "importance": "spectral"}),
    "empirical x magnitude": (LORA, {"name": "empirical", "importance": "magnitude"}),
    "adalora": (SVD, {"name": "adalora", "budget": {"ranks": 192}, "initial_rank": 12}),
    "sora": (SVD, {"name": "sora"}),
    # so many modules at a time that it acts for most of a short run, and meets its budget
    "increlora": ({**SVD, "rank": 8}, {"name": "increlora", "budget": {"ranks": 192}, "top_h": 24, "add": 3}),
    "dylora": (LORA, {"name": "dylora"}),
}


def run(backbone: str, adapter: dict[str, Any], allocator: dict[str, Any] | None, steps: int, folder: Path) -> dict[str, Any]:
    """One training run in this process."""
    parts = Ingredients.of(
        backbone=backbone,
        task={"kind": "image-classification", "data": "digits", "image_size": 96, "validation_size": 16, "test_size": 16},
        adapter=adapter,
        allocator=allocator,
        quantizer={"name": "none"},
    )
    task = parts.task.prepare(parts.preprocessing(), folder / "cache")
    splits, train = task.splits(0), Train(max_steps=steps, epochs=100, batch_size=32, learning_rate=1e-3, evaluate_every=100)
    adapted = parts.build(task.info.outputs, 0, look=lambda b: base_probe(b, task, splits, train, 0))
    trainer = Trainer(
        adapted=adapted,
        task=task,
        splits=splits,
        train=train,
        seed=0,
        device=torch.device("cpu"),
        precision="float32",
        checkpoints=Checkpoints(Path(tempfile.mkdtemp(dir=folder))),
        cadence=Cadence(seconds=float("inf")),
        hooks=adapted.hooks,
    )
    fitted = trainer.fit()
    return {
        "step_s": statistics.median(fitted.step_s),
        "in_hooks": trainer.chain.seconds["allocator"] / fitted.train_s,
        "memory": memory(adapted, trainer) if allocator else None,
    }


def memory(adapted: Adapted, trainer: Trainer) -> dict[str, int]:
    """Bytes counted, and by the formula for the ranks at the end: weights and two moments in float32."""
    names = {name: p for name, p in adapted.trainable().items() if not adapted.is_head(name)}
    moments = {f"{n}/{key}": v for n, p in names.items() for key, v in trainer.optimizer.state[p].items() if v.dim()}
    ranks = next(hook.report()["ranks.json"]["ranks"] for hook in adapted.hooks if "ranks.json" in hook.report())
    return {
        "counted": tensor_bytes({name: p.detach() for name, p in names.items()}) + tensor_bytes(moments),
        "formula": 12 * adapted.adapter.count(adapted.backbone, adapted.sites, ranks),
        "ranks": sum(ranks.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights")
    parser.add_argument("--only", default="", help="allocators whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="peftlab-bench-") as name:
        folder = Path(name)
        backbone, weights = vit_tiny(options.weights, folder)
        for label, (adapter, allocator) in ((k, v) for k, v in ALLOCATORS.items() if options.only in k):
            pairs = [
                (
                    run(backbone, adapter, None, options.steps, folder),
                    run(backbone, adapter, allocator, options.steps, folder),
                )
                for _ in range(options.repeats)
            ]
            ratios = [acting["step_s"] / plain["step_s"] for plain, acting in pairs]
            rows.append(
                {
                    "allocator": label,
                    "in_hooks": round(statistics.median(acting["in_hooks"] for _, acting in pairs), 5),
                    "step_ratio": round(statistics.median(ratios), 4),
                    "step_ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
                    "step_ms": round(1000 * statistics.median(plain["step_s"] for plain, _ in pairs), 1),
                    "memory": pairs[-1][1]["memory"],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    if options.output:
        found = {
            "benchmark": "allocator_overhead",
            "weights": weights,
            "steps": options.steps,
            "repeats": options.repeats,
            "torch": version("torch"),
            "threads": 1,
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "rows": rows,
        }
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
