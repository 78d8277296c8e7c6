"""A training step that leaves out the rows of the last block that nobody reads, beside one that computes them.

    python benchmarks/unread_rows.py [--output FILE] [--repeats N] [--weights FOLDER]

Floating-point operations of forward and backward pass as PyTorch counts them, and seconds of the processor, one thread, the two
sides in turn. ViT-Tiny at 96 pixels (random weights unless a folder is named) and the bundled backbone, batches of 32. Prints
JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _report import report
from _turns import in_turns
from _vit import vit_tiny
from torch.utils.flop_counter import FlopCounterMode

from peftlab.training.assemble import Ingredients

BATCH = 32
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 8, "targets": "standard"},
    "full": {"name": "full"},
}


class Side:
    """A model, with or without the rows that nobody reads."""

    def __init__(self, backbone: str, adapter: dict[str, Any], pixels: int, *, read_rows: bool) -> None:
        task = {"kind": "image-classification", "data": "digits", "image_size": pixels}
        quantizer = {"name": "none"}
        parts = Ingredients.of(backbone=backbone, task=task, adapter=adapter, allocator=None, quantizer=quantizer)
        self.adapted = parts.build(10, 0)
        if not read_rows:
            self.adapted.last = "to compare"
        self.adapted.module.train()
        self.images = torch.randn(BATCH, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))

    def step(self) -> None:
        """Forward and backward pass."""
        with self.adapted.reading():
            logits = self.adapted.backbone.outputs(self.adapted.module, {"pixel_values": self.images})
        logits.square().mean().backward()
        self.adapted.module.zero_grad()

    def gflop(self) -> float:
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops() / 1e9


def measure(backbone: str, adapter: dict[str, Any], pixels: int, repeats: int) -> dict[str, Any]:
    """Operations and time of both sides, and what the second takes of the first."""
    sides = {name: Side(backbone, adapter, pixels, read_rows=name == "read") for name in ("all", "read")}
    gflop = {name: side.gflop() for name, side in sides.items()}
    step_ms = in_turns({name: side.step for name, side in sides.items()}, repeats, time.process_time)
    return {
        "gflop": {name: round(value, 4) for name, value in gflop.items()},
        "gflop_left_out": round(1 - gflop["read"] / gflop["all"], 4),
        "step_ms": {name: round(value, 2) for name, value in step_ms.items()},
        "step_ratio": round(step_ms["read"] / step_ms["all"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny, weights = vit_tiny(options.weights, Path(folder))
        backbones = {"ViT-Tiny, 96 px": (tiny, 96), "bundled:vit-nano": ("bundled:vit-nano", 32)}
        found = {
            f"{name}, {arm}": measure(place, adapter, pixels, options.repeats)
            for name, (place, pixels) in backbones.items()
            for arm, adapter in ADAPTERS.items()
        }
    settings = {"weights": weights, "batch": BATCH}
    report("unread_rows", options.output, ("torch", "timm", "peft", "transformers"), settings, found=found)


if __name__ == "__main__":
    main()
