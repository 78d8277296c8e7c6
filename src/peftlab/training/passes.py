"""Where the forward and backward pass of a training step are computed: here, or together with those of other runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted


class Passes:
    """By itself. A subclass computes the same for several runs at once (training/stack.py)."""

    together: ClassVar[bool] = False  #: with those of other runs

    def outputs(self, adapted: Adapted, inputs: Mapping[str, torch.Tensor]) -> Any:
        """What the model says of a batch, in training mode and with torch's default random numbers."""
        with adapted.reading():
            return adapted.backbone.outputs(adapted.module, inputs)

    def leave(self, why: str) -> None:
        """Compute by itself from now on; ``why`` goes into the record."""

    def record(self) -> dict[str, Any]:
        """JSON-ready, of what was computed together with others; empty where nothing was."""
        return {}

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss`` to those of the trained tensors."""
        loss.backward()


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    """All tensors of real numbers in what a model says, in a fixed order."""
    if torch.is_tensor(outputs):
        return [outputs] if outputs.is_floating_point() else []
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]
