"""``python -m peftlab.planning.compile_trial DEVICE``: what compiling a training step is worth here, as a worker would see it.

LoRA of rank 8 with dropout on the bundled backbone, batches of 16: compiled, forgotten but for what lies on the disk, compiled
again; then plain and compiled steps in turn, the median ratio of a turn. Prints one line of JSON (planning/compiling.py).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from peftlab.adapters.contract import Adapted
from peftlab.training.assemble import Ingredients
from peftlab.training.compiled import Compiled
from peftlab.training.passes import Passes

_BATCH, _SIZE, _TURNS = 16, 32, 12


class _Count(TorchDispatchMode):
    """Operators of a step, as a plan counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # pyright: ignore
        self.number += 1
        return function(*args, **(kwargs or {}))


def _adapted(device: torch.device) -> Adapted:
    parts = Ingredients.of(
        backbone="bundled:vit-nano",
        task={"kind": "image-classification", "data": "digits", "image_size": _SIZE},
        adapter={"name": "lora", "rank": 8, "dropout": 0.05},
        allocator=None,
        quantizer={"name": "none"},
    )
    return parts.build(10, 0, device)


def _step(passes: Passes, adapted: Adapted, images: torch.Tensor) -> None:
    logits = passes.outputs(adapted, {"pixel_values": images})
    passes.backward(torch.nn.functional.cross_entropy(logits, torch.zeros(len(images), dtype=torch.long, device=images.device)))
    adapted.module.zero_grad()


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(device: torch.device, cache: Path) -> dict[str, float]:
    """Ratio, seconds of compiling for the first and for a later process, operators of a step.

    Raises:
        RuntimeError: nothing can be compiled here.
    """
    adapted, plain = _adapted(device), Passes()
    adapted.module.train()
    images = torch.rand(_BATCH, 3, _SIZE, _SIZE, device=device)
    with _Count() as count:
        _step(plain, adapted, images)
    took, compiled = [], Compiled(cache, device, "float32")
    for _ in ("cold", "warm"):
        torch._dynamo.reset()  # pyright: ignore
        compiled.prepare(adapted, {"pixel_values": images})
        if compiled.why:
            raise RuntimeError(compiled.why)
        took.append(compiled.seconds)
    ratios = []
    for turn in range(_TURNS):
        both = [_seconds(lambda side=side: _step(side, adapted, images), device) for side in (plain, compiled)]
        if turn > 1:
            ratios.append(both[1] / both[0])
    return {"ratio": statistics.median(ratios), "cold_s": took[0], "warm_s": took[1], "operations": float(count.number)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(torch.device(sys.argv[1]), Path(folder))), flush=True)
