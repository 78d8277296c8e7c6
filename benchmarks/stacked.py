"""Training steps of several runs computed as one, beside the same runs one after another.

    python benchmarks/stacked.py [--output FILE] [--repeats N] [--runs 4] [--device cpu] [--weights FOLDER]

LoRA of rank 8 on q and v with dropout 0.05, runs that differ in their seed; the bundled backbone (32 px) and ViT-Tiny (96 px,
random weights unless a folder is named: time does not depend on them), at several batch sizes. Both sides are whole training
loops with optimizer, clipping and data, without evaluations. On a CPU one thread and time of the processor, so that other work on
the machine counts less; on a GPU time on the wall. Prints JSON with the time of the stack by that of the runs one by one, median
of the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
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
from peftlab.training.stack import Member, Stack

ADAPTER = {"name": "lora", "rank": 8, "targets": "standard", "dropout": 0.05}
STEPS = 12


class Runs:
    """Runs that are trained anew in every turn."""

    def __init__(self, backbone: str, pixels: int, batch: int, number: int, device: torch.device, folder: Path) -> None:
        examples = batch * STEPS
        task: dict[str, Any] = {"kind": "image-classification", "data": "digits", "image_size": pixels}
        task |= {"train_size": max(examples, 20), "validation_size": 20, "test_size": 20}
        self.ingredients = Ingredients.of(
            backbone=backbone, task=task, adapter=ADAPTER, allocator=None, quantizer={"name": "none"}
        )
        self.task = self.ingredients.task.prepare(self.ingredients.preprocessing(), folder / "cache")
        self.train = Train(epochs=1, batch_size=batch, learning_rate=1e-3, max_steps=STEPS, evaluate_every=100)
        self.number, self.device, self.folder = number, device, folder

    def trainers(self) -> list[Trainer]:
        return [
            Trainer(
                adapted=self.ingredients.build(self.task.info.outputs, seed, self.device),
                task=self.task,
                splits=self.task.splits(seed),
                train=self.train,
                seed=seed,
                device=self.device,
                precision="float32",
                checkpoints=Checkpoints(self.folder / str(seed)),
                cadence=Cadence(seconds=float("inf")),
            )
            for seed in range(self.number)
        ]

    def one_by_one(self) -> float:
        trainers = self.trainers()
        began = self.now()
        for trainer in trainers:
            trainer.fit()
        return self.now() - began

    def stacked(self) -> float:
        trainers = self.trainers()

        def work(trainer: Trainer, member: Member) -> None:
            trainer.passes = member
            trainer.fit()

        stack = Stack([lambda member, t=trainer: work(t, member) for trainer in trainers], self.device, "float32")
        began = self.now()
        stack.run()
        taken = self.now() - began
        assert all(member.joint == member.passes for member in stack.members), [member.alone for member in stack.members]
        return taken

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def measure(runs: Runs, repeats: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {"one by one": [], "stacked": []}
    for turn in range(repeats + 1):
        taken = {"one by one": runs.one_by_one(), "stacked": runs.stacked()}
        if turn:  # the first one warms up
            for side, seconds in taken.items():
                times[side].append(seconds)
    ratios = [b / a for a, b in zip(times["one by one"], times["stacked"], strict=True)]
    step_ms = 1000 * statistics.median(times["one by one"]) / STEPS / runs.number
    found = {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "step_ms_alone": step_ms}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny, weights = vit_tiny(given.weights, Path(folder))
        for backbone, pixels in (("bundled:vit-nano", 32), (tiny, 96)):
            name = "ViT-Tiny" if pixels == 96 else "bundled ViT"
            tokens = 37 if pixels == 96 else 17
            for batch in given.batches:
                runs = Runs(backbone, pixels, batch, given.runs, torch.device(given.device), Path(folder) / f"{pixels}-{batch}")
                row = {"tokens a step": batch * tokens, **measure(runs, given.repeats)}
                rows[f"{name}, {pixels} px, batch {batch}"] = row
                print(json.dumps({name: row, "batch": batch}), file=sys.stderr, flush=True)
    settings = {"weights": weights, "runs": given.runs, "repeats": given.repeats, "device": given.device}
    report("stacked", given.output, ("torch", "timm", "peft", "transformers"), settings, **{"stack / one by one": rows})


if __name__ == "__main__":
    main()
