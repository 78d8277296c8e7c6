"""A training step of QA-LoRA beside one of plain LoRA.

    python benchmarks/qa_lora_step.py [--output FILE] [--repeats N] [--pixels 96] [--weights FOLDER] [--only TEXT]

ViT-Tiny, with random weights unless a folder is named (time does not depend on them), one thread, all sides in this process, one
step of each in turn. Time is that of the processor, so that other work on the machine counts less. Prints JSON with the ratio of
every side to LoRA on float weights. ``rho 0.5`` is a step in the middle of a linear schedule, where the float weights are still
there and every product uses a mixture of both.
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
from _vit import vit_tiny

from peftlab.nn.packed import PackedLinear
from peftlab.training.assemble import Ingredients

LORA = {"name": "lora", "rank": 8, "targets": "standard"}
POOLED = {"name": "pooled", "rank": 6, "targets": "standard"}  # 192 inputs are six groups of 32
#: side -> adapter, quantizer; the first is what the others are held against
SIDES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": (LORA, {"name": "none"}),
    "qa-lora int4": (POOLED, {"name": "groupwise", "type": "int4", "group_size": 32}),
    "qa-lora int8": (POOLED, {"name": "groupwise", "type": "int8", "group_size": 32}),
    "qa-lora nf4": (POOLED, {"name": "groupwise", "type": "nf4", "group_size": 32}),
    "qa-lora fp4": (POOLED, {"name": "groupwise", "type": "fp4", "group_size": 32}),
    "qa-lora int4, rho 0.5": (POOLED, {"name": "groupwise", "type": "int4", "group_size": 32, "schedule": "linear"}),
    "qa-lora nf4, rho 0.5": (POOLED, {"name": "groupwise", "type": "nf4", "group_size": 32, "schedule": "linear"}),
    "qlora nf4 (bitsandbytes)": (LORA, {"name": "bnb", "bits": 4}),
}
SIZES = {96: 32, 224: 16}  #: pixels -> batch
STEPS, MIDDLE = 101, 25  #: of a schedule that ends at half of the run: rho = 0.5 in this step


class Side:
    """A model with its optimizer."""

    def __init__(self, backbone: str, adapter: dict[str, Any], quantizer: dict[str, Any], pixels: int) -> None:
        task = {"kind": "image-classification", "data": "digits", "image_size": pixels}
        parts = Ingredients.of(backbone=backbone, task=task, adapter=adapter, allocator=None, quantizer=quantizer)
        adapted = parts.build(10, 0)
        self.module, self.outputs = adapted.module.train(), adapted.backbone.outputs
        self.optimizer = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=1e-3)
        for hook in adapted.hooks:
            hook.start(STEPS, self.optimizer)
            hook.before_step(MIDDLE)
        self.shares = sorted({m.share for m in self.module.modules() if isinstance(m, PackedLinear)})

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Seconds of the processor."""
        began = time.process_time()
        logits = self.outputs(self.module, {"pixel_values": images})
        torch.nn.functional.cross_entropy(logits, labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - began


def measure(backbone: str, pixels: int, batch: int, repeats: int, only: str) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, generator=random)
    labels = torch.randint(0, 10, (batch,), generator=random)
    first = next(iter(SIDES))
    sides = {name: Side(backbone, *parts, pixels) for name, parts in SIDES.items() if name == first or only in name}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            taken = side.step(images, labels)
            if turn:  # the first warms up
                seconds[name].append(taken)
    base = seconds[first]
    return {
        "pixels": pixels,
        "batch": batch,
        "rho": {name: side.shares for name, side in sides.items() if side.shares},
        "step_s": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        "ratio": {name: round(_ratio(taken, base), 3) for name, taken in seconds.items()},
        "ratio_range": {
            name: [round(bound(a / b for a, b in zip(taken, base, strict=True)), 3) for bound in (min, max)]
            for name, taken in seconds.items()
        },
    }


def _ratio(taken: list[float], base: list[float]) -> float:
    """Median over turns of the ratio within the turn."""
    return statistics.median(a / b for a, b in zip(taken, base, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pixels", type=int, choices=SIZES, help="this size only")
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights")
    parser.add_argument("--only", default="", help="sides whose name contains this, beside LoRA")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone, weights = vit_tiny(options.weights, Path(folder))
        sizes = {pixels: batch for pixels, batch in SIZES.items() if options.pixels in (None, pixels)}
        found = [measure(backbone, pixels, batch, options.repeats, options.only) for pixels, batch in sizes.items()]
    settings = {"weights": weights, "repeats": options.repeats}
    report("qa_lora_step", options.output, ("torch", "timm", "peft", "bitsandbytes"), settings, found=found)


if __name__ == "__main__":
    main()
