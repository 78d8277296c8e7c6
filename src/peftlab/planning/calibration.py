"""``python -m peftlab.planning.calibration DEVICE MODULE:FUNCTION``: what predictions need, measured as a worker would see it.

The process loads what a worker loads, forks as the fork server does, and the child trains two blocks of a ViT for a few steps.
Prints one line of JSON (see :class:`peftlab.planning.machine.Machine`).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftlab.nn.flops import flop_counter, product_rate
from peftlab.planning.estimate import roofline_s
from peftlab.planning.trace import StepTrace, fake_module, trace_step
from peftlab.training.memory import tensor_mb
from peftlab.training.resident import allocate_exactly, resident_mb

_BATCH, _SIZE = 16, 96


def _model(device: torch.device) -> nn.Module:
    import timm

    with torch.device(device):
        return timm.create_model("vit_tiny_patch16_224", depth=2, img_size=_SIZE, num_classes=10).train()


def _loss(module: nn.Module, device: torch.device) -> torch.Tensor:
    images = torch.ones(_BATCH, 3, _SIZE, _SIZE, device=device)
    return nn.functional.cross_entropy(module(images), torch.zeros(_BATCH, dtype=torch.long, device=device))


def _optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.0, fused=parameters[0].device.type in ("cpu", "cuda"))


def _best(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Shortest time of the work, in seconds: what else runs here only ever adds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def _traced(device: torch.device) -> StepTrace:
    mode, module = FakeTensorMode(), _model(torch.device("meta"))
    fake_module(module, mode, device)
    return trace_step(module, lambda: _loss(module, device), _optimizer, mode=mode, device=device, clip_norm=1.0)


def _touch_libraries(module: nn.Module) -> None:
    """Do once what every run does around its training: libraries are mapped when first used, and stay."""
    from PIL import Image
    from safetensors.torch import load, save
    from sklearn.datasets import load_digits

    load_digits()
    Image.new("RGB", (8, 8)).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    load(save({name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}))
    with flop_counter(), torch.inference_mode():
        _loss(module, next(module.parameters()).device)


def calibrate(device: torch.device) -> dict[str, float]:
    """Measure memory and speed in this process."""
    torch.set_num_threads(1)
    allocate_exactly(True)
    module = _model(device)
    optimizer = _optimizer(list(module.parameters()))

    def step() -> None:
        _loss(module, device).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    _touch_libraries(module)
    allocate_exactly(True)  # gives back what the heap kept
    tensors = [*module.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    process = resident_mb() - tensor_mb(tensors) if device.type == "cpu" else 0.0
    allocate_exactly(False)
    step_s = _best(step, device, 5)
    large, small = torch.ones(8_000_000, device=device), torch.ones(16, device=device)

    def many() -> None:
        for _ in range(1000):
            small.add_(1.0)

    figures = {
        "product_flops_per_s": product_rate(device, 0.3),
        "bandwidth_bytes_per_s": 2 * large.nbytes / _best(lambda: large.mul_(1.0), device, 5),
        "overhead_s": _best(many, device, 3) / 1000,
    }
    ideal = roofline_s(_traced(device).training, *figures.values())
    return {"process_mb": process, **figures, "efficiency": ideal / step_s}


def main(device: str, worker: str) -> int:
    module, _, function = worker.partition(":")
    loaded: Any = importlib.import_module(module)
    if function:
        getattr(loaded, function)()
    if not hasattr(os, "fork") or device != "cpu" or sys.platform == "darwin":
        print(json.dumps(calibrate(torch.device(device))), flush=True)
        return 0
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        print(json.dumps(calibrate(torch.device(device))), flush=True)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
