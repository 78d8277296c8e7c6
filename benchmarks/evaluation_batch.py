"""What the size of a batch does to evaluation: milliseconds an example, forward only, without autograd.

    python benchmarks/evaluation_batch.py [--output FILE] [--repeats N] [--weights FOLDER] [--device cpu]

LoRA of rank 8 on q and v, evaluation mode, as :mod:`peftlab.training.evaluation` runs it. ViT-Tiny at 96 and 224 pixels (random
weights unless a folder is named) and the bundled backbone, the sizes in turn. On a CPU one thread and seconds of the processor;
on a GPU seconds on the wall. Prints JSON; ``of_best`` is an example's time by that at the best size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _report import report
from _turns import in_turns
from _vit import vit_tiny

from peftlab.training.assemble import Ingredients

SIZES = (4, 8, 16, 32, 64, 128, 256)
ADAPTER = {"name": "lora", "rank": 8, "targets": "standard"}


def evaluator(backbone: str, pixels: int, device: torch.device) -> Callable[[int], Callable[[], None]]:
    """Size of a batch -> a call that evaluates one."""
    task = {"kind": "image-classification", "data": "digits", "image_size": pixels}
    parts = Ingredients.of(backbone=backbone, task=task, adapter=ADAPTER, allocator=None, quantizer={"name": "none"})
    adapted = parts.build(10, 0)
    module = adapted.module.to(device).eval()

    def of(size: int) -> Callable[[], None]:
        images = torch.randn(size, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)).to(device)

        def call() -> None:
            with torch.inference_mode(), adapted.reading():
                adapted.backbone.outputs(module, {"pixel_values": images})
            if device.type == "cuda":
                torch.cuda.synchronize()

        return call

    return of


def measure(backbone: str, pixels: int, repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    of = evaluator(backbone, pixels, device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    batch_ms = in_turns({str(size): of(size) for size in SIZES}, repeats, clock)
    example_ms = {size: batch_ms[size] / int(size) for size in batch_ms}
    best = min(example_ms.values())
    return {
        "example_ms": {size: round(value, 4) for size, value in example_ms.items()},
        "of_best": {size: round(value / best, 3) for size, value in example_ms.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        tiny, weights = vit_tiny(options.weights, Path(folder))
        backbones = {
            "ViT-Tiny, 224 px": (tiny, 224),
            "ViT-Tiny, 96 px": (tiny, 96),
            "bundled:vit-nano, 32 px": ("bundled:vit-nano", 32),
        }
        found = {name: measure(place, pixels, options.repeats, device) for name, (place, pixels) in backbones.items()}
    settings = {"weights": weights, "device": device.type}
    report("evaluation_batch", options.output, ("torch", "timm", "peft", "transformers"), settings, found=found)


if __name__ == "__main__":
    main()
