"""Forward and backward pass of training steps by ``torch.compile``: fewer, fused kernels; the same numbers up to rounding.

Before training, outputs and gradients of one batch are compared with those of the model as it is. Dropout draws from torch's own
generators there too, so masks are the same. What cannot be compiled, or differs, goes the ordinary way, and the record says why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from peftlab.adapters.contract import Adapted
from peftlab.nn.fused_layers import settle
from peftlab.nn.modes import moving, same_modes, train_mode, unmoved
from peftlab.nn.seeding import default_generator
from peftlab.training.passes import Passes, tensors_of
from peftlab.training.precision import Precision, autocast

#: largest difference of outputs and of every gradient, in units of its largest entry, from those of the model as it is
TOLERANCE: Mapping[Precision, float] = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}


class Compiled(Passes):
    """Compiles for batches of one shape; others (the last of an epoch) are computed as ever, and so is a step whose operations
    somebody looks at one by one (a count of them): compiled there are none to be seen, and torch refuses.

    Args:
        cache: where compiled kernels are kept, for all runs and processes.
        device, precision: of the run.
    """

    def __init__(self, cache: Path, device: torch.device, precision: Precision) -> None:
        self.cache, self.device = cache, device
        self.precision: Precision = precision
        self.why = "not tried"  #: why nothing is compiled; empty: it is
        self.seconds = 0.0  #: that compiling and comparing took
        self.passes = 0
        self._adapted: Adapted | None = None
        self._shape: Any = None
        self._function: Callable[[Mapping[str, torch.Tensor]], Any] | None = None

    def prepare(self, adapted: Adapted, inputs: Mapping[str, torch.Tensor]) -> None:
        """Compile for batches like ``inputs``, or find out why not. Nothing of the model and of random numbers is changed."""
        began = time.perf_counter()
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self.cache / "compiled"))
        function, state = _function(adapted), default_generator(self.device).get_state()
        try:
            from torch._inductor import config as inductor

            inductor.fallback_random = True  # masks of dropout as without compiling
            inductor.compile_threads = 1  # a worker has one core
            made = torch.compile(function, dynamic=False, fullgraph=True)
            with same_modes(adapted.module), unmoved(moving(adapted.module)), adapted.reading():
                train_mode(adapted.module)
                settle(adapted.module)
                self.why = self._difference(adapted, function, made, inputs)
        except Exception as error:  # of the compiler, of which there are many kinds; the model as it is needs none
            self.why = (
                f"it cannot be compiled: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            )
        else:
            self._adapted, self._shape, self._function = adapted, _shape(inputs), made
        default_generator(self.device).set_state(state)
        self.seconds = time.perf_counter() - began

    def _difference(self, adapted: Adapted, plain: Any, made: Any, inputs: Mapping[str, torch.Tensor]) -> str:
        """What differs; empty where nothing does."""
        tensors = adapted.trainable()
        sides, state = [], default_generator(self.device).get_state()
        for function in (plain, made):
            default_generator(self.device).set_state(state)
            with autocast(self.precision, self.device):
                outputs = tensors_of(function(inputs))
            total = torch.stack(
                [(o.float() * torch.linspace(-1, 1, o.numel(), device=o.device).view(o.shape)).sum() for o in outputs]
            )
            gradients = torch.autograd.grad(total.sum(), list(tensors.values()), allow_unused=True)
            sides.append([*outputs, *(g for g in gradients if g is not None)])
        for one, other in zip(*sides, strict=True):
            largest = float(one.detach().abs().max()) if one.numel() else 0.0
            if float((one - other).detach().abs().max()) > TOLERANCE[self.precision] * max(largest, 1e-6):
                return "compiled it gives other outputs or gradients"
        return ""

    def outputs(self, adapted: Adapted, inputs: Mapping[str, torch.Tensor]) -> Any:
        ready = not self.why and adapted is self._adapted and _shape(inputs) == self._shape
        if not ready or self._function is None or _get_current_dispatch_mode() is not None:
            return super().outputs(adapted, inputs)
        self.passes += 1
        with adapted.reading():
            return self._function(inputs)


def _function(adapted: Adapted) -> Callable[[Mapping[str, torch.Tensor]], Any]:
    return lambda inputs: adapted.backbone.outputs(adapted.module, inputs)


def _shape(inputs: Mapping[str, torch.Tensor]) -> Any:
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(inputs.items()))
