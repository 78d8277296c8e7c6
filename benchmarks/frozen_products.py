"""A LoRA step whose frozen layers multiply in float32, in 8-bit integers, and in bfloat16.

    python benchmarks/frozen_products.py [--output FILE] [--repeats N] [--pixels 96] [--architecture NAME]

A vision transformer of timm with random weights (time does not depend on them), ViT-Tiny unless another is named, LoRA of rank 8
on all linear layers, one thread, all sides in this process, one step of each in turn. Time is that of the processor. Prints
JSON: of every side the ratio to float32, and of its first outputs and gradients how far they are from float32's,
||a - b|| / ||b||.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _report import report
from _vit import ARCHITECTURE, vit_tiny

from peftlab.records.environment import cpu_model
from peftlab.training.assemble import Ingredients
from peftlab.training.precision import Precision, autocast

LORA = {"name": "lora", "rank": 8, "targets": "all-linear"}
#: side -> adapter, quantizer, precision; the first is what the others are held against
SIDES: dict[str, tuple[dict[str, Any], str, Precision]] = {
    "float32": (LORA, "none", "float32"),
    "int8-dynamic": (LORA, "int8-dynamic", "float32"),
    "bfloat16": (LORA, "none", "bfloat16"),
    "full fine-tuning, float32": ({"name": "full"}, "none", "float32"),
    "full fine-tuning, bfloat16": ({"name": "full"}, "none", "bfloat16"),
}
SIZES = {96: 32, 224: 16}  #: pixels -> batch
CPU = torch.device("cpu")


class Side:
    """A model with its optimizer."""

    def __init__(self, backbone: str, adapter: dict[str, Any], quantizer: str, precision: Precision, pixels: int) -> None:
        task = {"kind": "image-classification", "data": "digits", "image_size": pixels}
        parts = Ingredients.of(backbone=backbone, task=task, adapter=adapter, allocator=None, quantizer={"name": quantizer})
        adapted = parts.build(10, 0)
        self.module, self.outputs, self.precision = adapted.module.train(), adapted.backbone.outputs, precision
        self.trainable = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trainable.values(), lr=1e-3)
        self.first: tuple[torch.Tensor, torch.Tensor] | None = None  #: outputs and gradients of the first step

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Seconds of the processor."""
        began = time.process_time()
        with autocast(self.precision, CPU):
            logits = self.outputs(self.module, {"pixel_values": images})
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        if self.first is None:
            gradients = [p.grad.flatten() for p in self.trainable.values() if p.grad is not None]
            self.first = logits.detach().float().clone(), torch.cat(gradients).clone()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - began


def measure(backbone: str, pixels: int, batch: int, repeats: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, generator=random)
    labels = torch.randint(0, 10, (batch,), generator=random)
    sides = {name: Side(backbone, *parts, pixels) for name, parts in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            taken = side.step(images, labels)
            if turn:  # the first warms up
                seconds[name].append(taken)
    base, exact = seconds["float32"], sides["float32"].first
    ratios = {name: [a / b for a, b in zip(taken, base, strict=True)] for name, taken in seconds.items()}
    return {
        "pixels": pixels,
        "batch": batch,
        "step_s": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        "ratio": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "ratio_range": {name: [round(min(found), 3), round(max(found), 3)] for name, found in ratios.items()},
        "off": {name: _off(sides[name].first, exact) for name, parts in SIDES.items() if parts[0] is LORA},
    }


def _off(found: Any, exact: Any) -> dict[str, float]:
    shares = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    return {"outputs": round(shares[0], 5), "gradients": round(shares[1], 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--pixels", type=int, choices=SIZES, help="this size only")
    parser.add_argument("--architecture", default=ARCHITECTURE, help="of timm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone, weights = vit_tiny(None, Path(folder), options.architecture)
        sizes = {pixels: batch for pixels, batch in SIZES.items() if options.pixels in (None, pixels)}
        found = [measure(backbone, pixels, batch, options.repeats) for pixels, batch in sizes.items()]
    settings = {
        "weights": weights,
        "processor": cpu_model(),
        "instructions": {"vnni": torch.cpu._is_vnni_supported(), "amx": torch.cpu._is_amx_tile_supported()},
        "repeats": options.repeats,
    }
    report("frozen_products", options.output, ("torch", "timm", "peft"), settings, found=found)


if __name__ == "__main__":
    main()
