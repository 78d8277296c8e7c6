"""The updates of a run: the steps of its optimizer, but for those that float16 leaves out.

In float16 small gradients vanish. Losses are multiplied by a scale for that reason (torch's GradScaler: 65,536 at the start,
twice as much after every 2,000 steps that went well), and gradients divided by it again. Where one passes the range of float16
then, the step is left out and the scale halved: the regular start of many runs, and now and then after the scale has grown.

A step that was left out is no update: weights and moments stay as they are, hooks are told (nn/hooks.py), and the proof of
movement waits for the next. It is a step of the run all the same: data order and learning rate are functions of the step, so that
every arm passes the same examples at the same rate and ends where the schedule does. (transformers holds the schedule back for
such a step, and so does not come to its end.)
"""

from __future__ import annotations

import math
from typing import Any

import torch

from peftlab.errors import NonFinite
from peftlab.training.precision import Precision

#: halvings that take the scale from its start to 1, the loss as it is; a gradient that overflows even then is no matter of scale,
#: nor is one that grew by as much from one update to the next
MOST_IN_A_ROW = 16
FLAGGED = 0.05  #: share of steps left out from which every table says so


class Updates:
    """Takes the steps of one optimizer, in a run of ``total`` steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, precision: Precision, device: torch.device, total: int) -> None:
        self.optimizer, self.device = optimizer, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")  # pyright: ignore
        self.most = min(MOST_IN_A_ROW, total - 1)  # a run has one update at least
        self.left_out = self.in_a_row = 0  #: steps: of the run, and since the last update

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """What is differentiated in the place of ``loss``."""
        return self.scaler.scale(loss)

    def unscale(self) -> None:
        """Give the summed gradients the size of those of the loss."""
        if self.scaler.is_enabled():
            self.scaler.scale(torch.zeros((), device=self.device))  # it wants to have been used; there may have been no example
        self.scaler.unscale_(self.optimizer)

    def take(self, step: int, loss: float, norm: float) -> bool:
        """Update the weights, or leave the step out; whether they were updated. Gradients are left as they are.

        Args:
            loss: of the whole step.
            norm: of the gradient, before clipping.

        Raises:
            NonFinite: the loss is not; or the gradient, in float16 whatever the scale.
        """
        enabled = self.scaler.is_enabled()
        if not math.isfinite(loss) or not (enabled or math.isfinite(norm)):
            raise NonFinite(f"the loss or its gradient is not finite in step {step + 1}")
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        now = self.scaler.get_scale()
        if now >= before:
            self.in_a_row = 0
            return True
        if self.in_a_row >= self.most or now < 1:
            row = f" and the {self.in_a_row} before it" if self.in_a_row else ""
            raise NonFinite(
                f"the gradient is not finite in step {step + 1}{row}, with the loss scaled by {before:g} in float16",
                where="train.precision",
                remedy="use float32 or bfloat16 (on_non_finite: higher-precision does it by itself), or lower the learning rate",
            )
        self.left_out, self.in_a_row = self.left_out + 1, self.in_a_row + 1
        return False

    def flags(self, steps: int) -> list[str]:
        """For every table, where a run of ``steps`` steps had considerably fewer updates."""
        many = self.left_out and self.left_out >= FLAGGED * steps
        return [f"float16 left out {100 * FLAGGED:.0f} % of the steps or more"] if many else []

    def notes(self, steps: int) -> list[str]:
        """For the record of a run of ``steps`` steps."""
        if not self.left_out:
            return []
        last = f", the last {self.in_a_row} among them" if self.in_a_row else ""
        return [f"{self.left_out} of {steps} steps were no updates{last}: gradients passed the range of float16"]

    def state(self) -> dict[str, Any]:
        """JSON values to be kept in a checkpoint."""
        return {**self.scaler.state_dict(), "left_out": self.left_out, "in_a_row": self.in_a_row}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; that of earlier versions knows of no step that was left out."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state)
        self.left_out, self.in_a_row = state.get("left_out", 0), state.get("in_a_row", 0)
