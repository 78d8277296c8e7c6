"""The seam between the training loop and everything that acts during training.

The loop knows no method by name. Whoever wants to act (an allocator, a quantization schedule, a probe) gives it a hook.
Order within one optimizer step: ``before_step`` - forward/backward of every micro-batch, with ``penalty`` added to each loss
- ``after_backward`` (gradients summed, not yet clipped) - clip - optimizer - ``after_step`` (gradients still there) - zero
gradients.
"""

from __future__ import annotations

from typing import Any

import torch


class TrainingHook:
    """Base with every method a no-op. ``state`` must hold everything needed to continue bit for bit."""

    name: str = "hook"

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first step and before any state is loaded."""

    def before_step(self, step: int) -> None:
        """``step`` counts optimizer steps from 0."""

    def penalty(self) -> torch.Tensor | None:
        """A scalar added to the training loss (never to an evaluation)."""
        return None

    def after_backward(self, step: int) -> None: ...

    def after_step(self, step: int) -> None: ...

    def finish(self) -> None:
        """Called after the last step. The place to raise DidNothing."""

    def close(self) -> None:
        """Called when training ends, however it ends: the place to leave contexts that are still open."""

    def state(self) -> dict[str, Any]:
        """Tensors and JSON values to be kept in a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...

    def report(self) -> dict[str, Any]:
        """File name -> JSON-ready content, written into the run folder at the end."""
        return {}
