"""Memory and time of a run, predicted before it runs. MB are 10^6 bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from peftlab.adapters.contract import Adapted
from peftlab.nn.memory import MB
from peftlab.nn.modes import train_mode
from peftlab.planning.trace import Operation, StepTrace, fake_module, trace_step
from peftlab.study.schema import Train
from peftlab.training.memory import split_peak
from peftlab.training.optimizers import make_optimizer
from peftlab.training.precision import autocast, resolve_precision
from peftlab.training.prefix import KEY, Cut, Uncut, tail
from peftlab.training.prefix_search import find_cut
from peftlab.training.recompute import enable_checkpointing

#: share of the free memory that a plan uses; the rest covers the error of the prediction
HEADROOM = 0.9


class Objective(Protocol):
    """What a prediction needs of a task."""

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]: ...

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor: ...


class Host(Protocol):
    """What a prediction needs to know of a machine (planning/machine.py)."""

    @property
    def device(self) -> str: ...

    @property
    def process_mb(self) -> float: ...

    def seconds(self, operations: Sequence[Operation]) -> float: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Prediction for one arm at one micro-batch size.

    ``parts_mb`` splits the peak of a training step: process (the interpreter and its libraries; 0 on a GPU), weights (frozen),
    adapter (trainable), optimizer (state), activations (kept for the backward pass, batch included), gradients (what of them
    overlaps with the peak) and workspace, by the rule of :func:`peftlab.training.memory.split_peak`, as measurements are split.
    """

    parts_mb: Mapping[str, float]
    evaluate_peak_mb: float
    step_flops: int  #: one micro-batch forward and backward, and the optimizer
    step_time_s: float  #: of one micro-batch with the optimizer
    evaluate_time_per_example_s: float
    operations: int = 0  #: operators of a training step

    @property
    def peak_mb(self) -> float:
        """The larger of the peaks of training and evaluation."""
        return max(sum(self.parts_mb.values()), self.evaluate_peak_mb)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "peak_mb": round(self.peak_mb, 3),
            "parts_mb": {name: round(value, 3) for name, value in self.parts_mb.items()},
            "evaluate_peak_mb": round(self.evaluate_peak_mb, 3),
            "step_flops": self.step_flops,
            "step_time_s": self.step_time_s,
            "evaluate_time_per_example_s": self.evaluate_time_per_example_s,
        }


def trace(
    build: Callable[[], Adapted],
    batch_shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    task: Objective,
    train: Train,
    device: torch.device,
    examples: int | None = None,
    cut: Callable[[Cut], None] | None = None,
) -> StepTrace:
    """Follow one step of the training loop over fake tensors on ``device``. ``build`` may give a model on the meta device.

    Args:
        examples: in a micro-batch, where they are not its rows.
        cut: follow what is left once the frozen prefix is cut off, and be told where that is.

    Raises:
        Uncut: there is no such place.
    """
    adapted = build()
    module = adapted.module
    if train.gradient_checkpointing:
        enable_checkpointing(adapted)
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # indices that an adapter holds beside its parameters and buffers
    fake_module(module, mode, device)
    train_mode(module)
    precision = resolve_precision(train.precision, device)

    found: Cut | None = None
    if cut is not None:
        if any(hook.changes_base for hook in adapted.hooks):
            raise Uncut("frozen weights change in training (quantization schedule)")
        blocks = [site.block for site in adapted.sites if site.block is not None]
        with mode, autocast(precision, device):
            found = find_cut(adapted, task.inputs(_empty(batch_shapes, device)), most=min(blocks, default=None))
        adapted = tail(adapted, found)
        cut(found)
    held: list[Mapping[str, torch.Tensor]] = []

    def forward_loss() -> torch.Tensor:
        batch = _empty(batch_shapes, device)
        inputs = task.inputs(batch)
        if found is not None:
            rows = len(next(iter(inputs.values())))
            inputs = {name: value for name, value in inputs.items() if name not in found.placeholders}
            batch = {name: value for name, value in batch.items() if name not in found.placeholders}
            inputs[KEY] = batch[KEY] = torch.empty((rows, *found.shape), dtype=found.dtype, device=device)
        held[:] = [batch]  # the loop holds its batch until the backward pass is done
        with adapted.reading(), autocast(precision, device):
            outputs = adapted.backbone.outputs(module, inputs)
        return task.loss(outputs, batch, train.label_smoothing)

    micro = examples or next(iter(batch_shapes.values()))[0][0]
    return trace_step(
        module,
        forward_loss,
        lambda parameters: make_optimizer({str(i): p for i, p in enumerate(parameters)}, train, device),
        mode=mode,
        device=device,
        clip_norm=train.clip_norm,
        accumulate=(train.effective_batch_size or micro) > micro,
    )


def _empty(batch_shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in batch_shapes.items()}


def estimate(
    build: Callable[[], Adapted],
    batch_shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    task: Objective,
    train: Train,
    machine: Host,
    examples: int | None = None,
    cut: Callable[[Cut], None] | None = None,
) -> Estimate:
    """Predict peak memory and time from one step over fake tensors, and the figures measured once on this machine.

    Memory: what PyTorch keeps alive at the worst moment, plus the process. Time: per operation the longer of computing
    (FLOPs / matrix-product rate) and moving (bytes / bandwidth), plus a fixed overhead, divided by the share of that roofline
    that a small ViT reached here (Williams, Waterman & Patterson 2009, the roofline model).

    Args:
        build: gives the adapted model; on the meta device, no weights are needed.
        batch_shapes: name -> (shape, dtype) of a micro-batch, rows first.
        examples: in a micro-batch, where they are not its rows.
        cut: as :func:`trace`, which also says what is raised.
    """
    device = torch.device(machine.device)
    examples = examples or next(iter(batch_shapes.values()))[0][0]
    followed = trace(build, batch_shapes, task, train, device, examples, cut)
    fixed = {name: followed.parts[name] / MB for name in ("weights", "adapter", "optimizer")}
    varying = {"activations": followed.saved / MB, "gradients": followed.gradients / MB}
    return Estimate(
        parts_mb=split_peak(machine.process_mb + followed.peak / MB, {"process": machine.process_mb, **fixed, **varying}),
        evaluate_peak_mb=machine.process_mb + followed.evaluation_peak / MB,
        step_flops=followed.flops,
        step_time_s=machine.seconds(followed.training),
        evaluate_time_per_example_s=machine.seconds(followed.evaluation) / examples,
        operations=len(followed.training),
    )


def roofline_s(operations: Sequence[Operation], flops_per_s: float, bytes_per_s: float, overhead_s: float) -> float:
    """Sum over operations of max(FLOPs / rate, bytes / bandwidth) + overhead."""
    return sum(max(op.flops / flops_per_s, op.bytes_moved / bytes_per_s) + overhead_s for op in operations)


def largest_batch(estimate_at: Callable[[int], Estimate], available_mb: float, effective: int) -> int:
    """Largest divisor of the effective batch whose predicted peak fits into :data:`HEADROOM` of the memory; 0 if none does.

    Bisects, because memory grows with the batch: for 64 examples three predictions instead of seven.
    """
    divisors = [n for n in range(1, effective + 1) if effective % n == 0]
    low, high = 0, len(divisors)  # the first `low` fit, those from `high` on do not
    if fits(estimate_at(divisors[-1]), available_mb):
        return divisors[-1]
    high -= 1
    while low < high:
        middle = (low + high) // 2
        if fits(estimate_at(divisors[middle]), available_mb):
            low = middle + 1
        else:
            high = middle
    return divisors[low - 1] if low else 0


def fits(estimate: Estimate, available_mb: float) -> bool:
    return estimate.peak_mb <= HEADROOM * available_mb


def refusal(found: Estimate, estimate_at: Callable[[int], Estimate], available_mb: float, effective: int) -> str | None:
    """Why a run cannot fit, with the largest batch that would; None when it fits."""
    if fits(found, available_mb):
        return None
    best = largest_batch(estimate_at, available_mb, effective)
    advice = f"the largest batch_size that would fit is {best}" if best else "not even a batch of one fits"
    usable = HEADROOM * available_mb
    return (
        f"predicted to need {found.peak_mb:,.0f} MB, but {usable:,.0f} of {available_mb:,.0f} MB free here may be used; {advice}"
    )
