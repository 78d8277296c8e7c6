"""Whole runs with hidden states from disk beside the same runs without.

    python benchmarks/prefix_cache.py [--output FILE] [--repeats N] [--weights FOLDER] [--data FOLDER] [--train N]

ViT-Tiny at 96 pixels, a linear probe and LoRA on the last four blocks: training, a validation after every epoch, the test. One
thread, all in this process, one run of each in turn; time is that of the processor, so that other work on the machine counts
less. Weights are random and images scikit-learn's digits unless folders are named (time does not depend on them). Prints JSON:
seconds of a run without, of a run that finds its hidden states, and of computing these; the ratio for runs that share
(``--runs``), and for one that computes them for itself; and the largest difference of weights after training, relative to the
largest weight.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _report import report
from _vit import vit_tiny

from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.prefix_store import Store
from peftlab.training.prefix_task import Prefix, PrefixTask

PIXELS, BATCH = 96, 32
#: arm -> adapter
ARMS: dict[str, dict[str, Any]] = {
    "linear probe": {"name": "linear-probe"},
    "lora, last four blocks": {"name": "lora", "rank": 8, "targets": "attention,blocks:8-11"},
}


class Arm:
    """Runs of one arm."""

    def __init__(self, backbone: str, data: str, adapter: dict[str, Any], train: int, epochs: int) -> None:
        sizes = {"train_size": train, "validation_size": train // 4, "test_size": train // 4}
        task = {"kind": "image-classification", "data": data, "image_size": PIXELS, **sizes}
        self.parts = Ingredients.of(backbone=backbone, task=task, adapter=adapter, allocator=None, quantizer={"name": "none"})
        self.train = Train(epochs=epochs, batch_size=BATCH, learning_rate=1e-3)

    def trainer(self, folder: Path) -> Trainer:
        prepared = self.parts.task.prepare(self.parts.preprocessing(), folder / "cache")
        return Trainer(
            adapted=self.parts.build(prepared.info.outputs, 0),
            task=prepared,
            splits=prepared.splits(0),
            train=self.train,
            seed=0,
            device=torch.device("cpu"),
            precision="float32",
            checkpoints=Checkpoints(folder / "checkpoints"),
            cadence=Cadence(seconds=float("inf")),
        )

    def turn(self, folder: Path) -> dict[str, Any]:
        """Seconds of the processor of a run without, of filling, and of a run with hidden states."""
        whole = self.trainer(folder)
        whole_s = _seconds(whole)
        plain = self.trainer(folder)
        options: dict[str, Any] = {"device": plain.device, "precision": plain.precision, "about": {}}
        began = time.process_time()
        prefix = Prefix.of(plain.adapted, plain.task, plain.splits, store=Store(folder / "prefixes"), **options)
        tried_s = time.process_time() - began
        for split in ("train", "test"):
            prefix.ready(plain.splits[split])
        fill_s = time.process_time() - began - tried_s
        for part in prefix.parts:  # as a run that finds the files: opened and checked anew
            part.rows = None
        cut = dataclasses.replace(plain, adapted=prefix.adapted, task=PrefixTask(prefix))
        return {
            "whole_s": whole_s,
            "cut_s": tried_s + _seconds(cut),
            "fill_s": fill_s,
            "place": prefix.cut.name,
            "mb": prefix.size / 1e6,
            "difference": max(_relative(p, whole.trainable[name]) for name, p in cut.trainable.items()),
        }


def _seconds(trainer: Trainer) -> float:
    began = time.process_time()
    trainer.fit()
    trainer.evaluate("test")
    return time.process_time() - began


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


def measure(arm: Arm, repeats: int, runs: int) -> dict[str, Any]:
    turns = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            turns.append(arm.turn(Path(folder)))
    ratios = {
        f"{runs} runs that share": [(t["cut_s"] + t["fill_s"] / runs) / t["whole_s"] for t in turns],
        "one run alone": [(t["cut_s"] + t["fill_s"]) / t["whole_s"] for t in turns],
    }
    return {
        "cut": turns[0]["place"],
        "mb": round(turns[0]["mb"], 3),
        **{name: round(statistics.median(t[name] for t in turns), 3) for name in ("whole_s", "cut_s", "fill_s")},
        "ratio": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "ratio_range": {name: [round(bound(found), 3) for bound in (min, max)] for name, found in ratios.items()},
        "largest_difference_of_weights": max(t["difference"] for t in turns),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights")
    parser.add_argument("--data", default="digits", help="a data source, or a folder with train.npz and test.npz")
    parser.add_argument("--train", type=int, default=400, help="training examples; a quarter of that validates, another tests")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5, help="that share hidden states")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone, weights = vit_tiny(options.weights, Path(folder))
        arms = {name: Arm(backbone, options.data, adapter, options.train, options.epochs) for name, adapter in ARMS.items()}
        found = {name: measure(arm, options.repeats, options.runs) for name, arm in arms.items()}
    settings = {
        "weights": weights,
        "data": Path(options.data).name,
        "pixels": PIXELS,
        "batch": BATCH,
        "train": options.train,
        "epochs": options.epochs,
        "repeats": options.repeats,
    }
    report("prefix_cache", options.output, ("torch", "timm", "peft"), settings, found=found)


if __name__ == "__main__":
    main()
