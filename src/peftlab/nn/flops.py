"""Floating-point operations: PyTorch's own counting, completed, and what the machine can do."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop, sdpa_flop

_aten = torch.ops.aten
#: what PyTorch's table of formulas lacks: products that are added in place, and attention on the CPU, whose backward takes
#: (grad_out, q, k, v, ...) like the others
LACKING: dict[Any, Any] = {
    _aten.addmm_: addmm_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


def flop_counter() -> FlopCounterMode:
    """A context that counts the FLOPs of matrix products, convolutions and attention executed in it."""

    def on_shapes(formula: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> int:
            shapes = [tuple(a.shape) if torch.is_tensor(a) else a for a in args]
            kwargs.pop("out_val", None)
            return formula(*shapes[: 4 if formula is sdpa_backward_flop else 3])

        counted._get_raw = True  # pyright: ignore
        return counted

    return FlopCounterMode(display=False, custom_mapping={op: on_shapes(f) for op, f in LACKING.items()})


def product_rate(device: torch.device, seconds: float = 0.1, size: int = 1024, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a matrix product [size, size] with this process's threads: the best of what fits in ``seconds``."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
