"""One training step followed without data, without weights and without computing: who is alive when, and what it costs.

The adapted model is put on fake tensors (shape, stride, dtype and device, no memory) and one real step runs over them: forward,
loss, backward, clipping, optimizer. A dispatch mode sees every operation. Each new storage is written down with its size and the
moments it is born and dies (weak references, the idea of ``torch.distributed._tools.mem_tracker``), so the peak is not a formula
per method but what PyTorch's own autograd keeps alive, for any adapter and any module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from peftlab.nn.flops import LACKING
from peftlab.nn.modes import train_mode

#: what memory is attributed to; ``workspace`` is everything that lives only within the step and is not saved for backward
PARTS: tuple[str, ...] = ("weights", "adapter", "optimizer", "activations", "gradients", "workspace")

_ALIGNMENT = {"cuda": 512}  #: bytes; CUDA's caching allocator rounds up to this (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One executed kernel: floating-point operations and bytes read plus written."""

    name: str
    flops: int
    bytes_moved: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTrace:
    """What one training step and one evaluation of a batch need. Sizes in bytes."""

    peak: int  #: largest total alive at once, in a step after the first (optimizer state is there)
    parts: Mapping[str, int]  #: the peak, split into :data:`PARTS` by what is alive then
    saved: int  #: kept for the backward pass, batch included
    gradients: int  #: of all trainable parameters, at the end of the backward pass
    evaluation_peak: int
    training: tuple[Operation, ...]
    evaluation: tuple[Operation, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations of one micro-batch, forward and backward, with the optimizer."""
        return sum(op.flops for op in self.training)


@dataclasses.dataclass(slots=True)
class _Storage:
    bytes: int
    born: int
    died: int | None = None
    part: str = "workspace"


class _Follower(TorchDispatchMode):
    """Counts the operations and follows the storages of everything that runs inside."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.alignment = _ALIGNMENT.get(device.type, 64)
        self.clock = 0
        self.operations: list[Operation] = []
        self.storages: list[_Storage] = []
        self._alive: dict[int, tuple[weakref.ref, _Storage]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        try:
            out = func(*args, **(kwargs or {}))
        except DataDependentOutputException:  # `if torch.rand(1) > dropout`: where nothing is computed no number is known
            return _one(args[0].dtype)
        if func.namespace != "prim":
            self.clock += 1
            written = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            fresh = [self.follow(t) for t in written]
            if any(fresh) or func._schema.is_mutable:
                self._count(func, args, kwargs or {}, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        formula = flop_registry.get(packet) or LACKING.get(packet)
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        self.operations.append(Operation(str(packet), int(flops), sum(t.numel() * t.element_size() for t in tensors)))

    def follow(self, tensor: torch.Tensor, part: str | None = None) -> bool:
        """Follow the tensor's storage from now on; True when it was not known."""
        if tensor.device.type != self.device.type:
            return False
        storage = tensor.untyped_storage()
        known = self._alive.get(id(storage))
        if known is None:
            size = -(-storage.nbytes() // self.alignment) * self.alignment
            entry = _Storage(size, self.clock)
            self.storages.append(entry)
            self._alive[id(storage)] = (weakref.ref(storage, partial(self._gone, id(storage))), entry)
        else:
            entry = known[1]
        if part:
            entry.part = part
        return known is None

    def _gone(self, key: int, _: weakref.ref) -> None:
        self._alive.pop(key)[1].died = self.clock

    def label(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Say what tensors are for; those of other parts keep theirs."""
        for tensor in tensors:
            known = self._alive.get(id(tensor.untyped_storage()))
            if known and known[1].part == "workspace":
                known[1].part = part

    def alive_now(self) -> list[_Storage]:
        return [entry for _, entry in self._alive.values()]


def _one(dtype: torch.dtype) -> bool | int | float:
    """What a step is taken to find where it asks a tensor for a number: the branch in which something happens."""
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def fake_module(module: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Replace, in place, every parameter and buffer by a fake tensor on ``device``; what shares memory goes on sharing it."""
    made: dict[int, torch.Tensor] = {}
    storages: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            storage = tensor.untyped_storage()
            key = storage._cdata, tensor.dtype
            with mode:
                if key not in storages:
                    storages[key] = torch.empty(storage.nbytes() // tensor.element_size(), dtype=tensor.dtype, device=device)
                empty = torch.as_strided(storages[key], tensor.size(), tensor.stride(), tensor.storage_offset())
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return made[id(tensor)]

    keep = []  # ids must not be reused while tensors are being replaced
    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    keep.append(tensor)
                    tensors[name] = fake(tensor)  # pyright: ignore


@contextlib.contextmanager
def _following(module: nn.Module, device: torch.device) -> Iterator[_Follower]:
    follower = _Follower(device)
    for tensor in module.parameters():
        follower.follow(tensor, "adapter" if tensor.requires_grad else "weights")
    for tensor in module.buffers():
        follower.follow(tensor, "weights")
    with follower:
        yield follower


def trace_step(
    module: nn.Module,
    forward_loss: Callable[[], torch.Tensor],
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    *,
    mode: FakeTensorMode,
    device: torch.device,
    clip_norm: float | None = None,
    accumulate: bool = False,
) -> StepTrace:
    """Follow one training step and one evaluation.

    Args:
        module: on fake tensors of ``mode`` (see :func:`fake_module`), in training mode.
        forward_loss: makes the batch, runs the model and gives the loss of one micro-batch.
        optimizer: makes the optimizer of the parameters it is given.
        accumulate: gradients of earlier micro-batches lie there during forward and backward.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    with mode:
        with _following(module, device) as follower:
            loss = forward_loss()
            for entry in follower.alive_now():  # batch, saved tensors, outputs: what the backward pass finds
                entry.part = "activations" if entry.part == "workspace" else entry.part
            loss.backward()
            del loss
            gradients = [p.grad for p in trainable if p.grad is not None]
            follower.label(gradients, "gradients")
            if clip_norm is not None and gradients:
                nn.utils.clip_grad_norm_(trainable, clip_norm)
            rule = optimizer(trainable)
            rule.step()
            follower.label((t for t in tree_leaves(list(rule.state.values())) if isinstance(t, torch.Tensor)), "optimizer")
        for parameter in trainable:
            parameter.grad = None
        del gradients, rule
        module.eval()
        with _following(module, device) as evaluation, torch.no_grad():
            forward_loss()
        train_mode(module)
    peak, parts = _peak(follower.storages, accumulate)
    at_evaluation = sum(entry.bytes for entry in follower.storages if entry.part == "optimizer")
    return StepTrace(
        peak=peak,
        parts=parts,
        saved=sum(entry.bytes for entry in follower.storages if entry.part == "activations"),
        gradients=sum(entry.bytes for entry in follower.storages if entry.part == "gradients"),
        evaluation_peak=at_evaluation + _peak(evaluation.storages, False)[0],
        training=tuple(follower.operations),
        evaluation=tuple(evaluation.operations),
    )


def _peak(storages: list[_Storage], accumulate: bool) -> tuple[int, dict[str, int]]:
    """Largest sum of what is alive at once, and its split.

    The traced step is the first one, which makes the optimizer state at its end; every later step has it all along, so it counts
    from the start, and gradients too when they are accumulated. A storage that dies during an operation is there while it runs.
    """
    change: dict[int, int] = {}
    spans = []
    for entry in storages:
        whole = entry.part == "optimizer" or (accumulate and entry.part == "gradients")
        born, died = (0 if whole else entry.born), entry.died
        spans.append((entry, born, died))
        change[born] = change.get(born, 0) + entry.bytes
        if died is not None:
            change[died + 1] = change.get(died + 1, 0) - entry.bytes
    total = peak = at = 0
    for moment in sorted(change):
        total += change[moment]
        if total > peak:
            peak, at = total, moment
    parts = dict.fromkeys(PARTS, 0)
    for entry, born, died in spans:
        if born <= at and (died is None or at <= died):
            parts[entry.part] += entry.bytes
    return peak, parts
