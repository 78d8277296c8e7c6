"""Outputs over a whole split, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from peftlab.errors import NonFinite
from peftlab.tasks.contract import Meter, PreparedTask


def evaluation_order(task: PreparedTask, indices: np.ndarray) -> np.ndarray:
    """Places in ``indices``, int64 [N]: from the shortest example to the longest where the task has lengths, else as they are."""
    lengths = task.lengths(indices)
    return np.arange(len(indices)) if lengths is None else np.argsort(lengths, kind="stable")


def evaluate(
    task: PreparedTask,
    indices: np.ndarray,
    forward: Callable[[dict[str, torch.Tensor]], Any],
    batch: int,
    device: torch.device,
    thresholds: Mapping[str, float] | None = None,
) -> Meter:
    """A meter that has seen all examples in the order of :func:`evaluation_order`, without autograd. Draws no random numbers.

    Args:
        indices: examples of the task, int64 [N].
        forward: inputs -> what ``Backbone.outputs`` returns; in evaluation mode.
        batch: examples at a time.
        device: where ``forward`` computes.
        thresholds: what validation data decided; None: the meter decides by these examples, as on validation data.
    """
    meter = task.meter(thresholds)
    ordered = indices[evaluation_order(task, indices)]
    with torch.inference_mode():
        for start in range(0, len(ordered), batch):
            examples = to_device(task.batch(ordered[start : start + batch]), device)
            meter.update(forward(task.inputs(examples)), examples)
    return meter


def check_finite(metrics: Mapping[str, float], split: str) -> None:
    """Raises NonFinite where the mean loss over a split is not finite: outputs overflowed, and no other metric means anything."""
    if not math.isfinite(metrics["loss"]):
        raise NonFinite(f"the loss on {split} data is not finite")


def predictions(task: PreparedTask, indices: np.ndarray, meter: Meter) -> dict[str, np.ndarray]:
    """Item-level arrays of a meter from :func:`evaluate`, in the order of ``indices``."""
    seen = evaluation_order(task, indices)
    found = meter.predictions()
    as_given = {name: np.empty_like(values) for name, values in found.items()}
    for name, values in found.items():
        as_given[name][seen] = values
    return as_given


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
