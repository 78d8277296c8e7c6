"""A training step of QA-LoRA beside one of plain LoRA: ``python benchmarks/qa_lora_step.py [--output FILE] [--repeats N]``.

ViT-Tiny with random weights (time does not depend on them), one thread, all sides in this process, one step of each in turn.
Time is that of the processor, so that other work on the machine counts less. Prints JSON with the ratio of every side to LoRA on
float weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from peftlab.training.assemble import Ingredients

LORA = {"name": "lora", "rank": 8, "targets": "standard"}
POOLED = {"name": "pooled", "rank": 6, "targets": "standard"}  # 192 inputs are six groups of 32
#: side -> adapter, quantizer; the first is what the others are held against
SIDES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": (LORA, {"name": "none"}),
    "qa-lora int4": (POOLED, {"name": "groupwise", "type": "int4", "group_size": 32}),
    "qa-lora int8": (POOLED, {"name": "groupwise", "type": "int8", "group_size": 32}),
    "qa-lora nf4": (POOLED, {"name": "groupwise", "type": "nf4", "group_size": 32}),
    "qlora nf4 (bitsandbytes)": (LORA, {"name": "bnb", "bits": 4}),
}
SIZES = ((96, 32), (224, 16))  #: pixels, batch


class Side:
    """A model with its optimizer."""

    def __init__(self, backbone: str, adapter: dict[str, Any], quantizer: dict[str, Any], pixels: int) -> None:
        task = {"kind": "image-classification", "data": "digits", "image_size": pixels}
        parts = Ingredients.of(backbone=backbone, task=task, adapter=adapter, allocator=None, quantizer=quantizer)
        self.module = parts.build(10, 0).module.train()
        self.optimizer = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=1e-3)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Seconds of the processor."""
        began = time.process_time()
        torch.nn.functional.cross_entropy(self.module(images), labels).backward()
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
    base = seconds[next(iter(SIDES))]
    return {
        "pixels": pixels,
        "batch": batch,
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
    parser.add_argument("--pixels", type=int, help="this size only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import timm
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "num_classes": 1000}')
        found = [
            measure(str(folder), pixels, batch, options.repeats) for pixels, batch in SIZES if options.pixels in (None, pixels)
        ]
    report = {
        "benchmark": "qa_lora_step",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", "timm", "peft", "bitsandbytes")},
        "threads": 1,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "repeats": options.repeats,
        "found": found,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
