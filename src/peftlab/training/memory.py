"""Memory of a run, measured in the process of the run. MB are 10^6 bytes everywhere.

Two peaks are reported on a CPU, because they answer two questions:

* ``peak_mb`` is what the run *needs*: the kernel's high-water mark of the resident size over a few steps in which every tensor of
  at least 256 KiB gets pages of its own from the kernel and gives them back when it dies.
* ``process_peak_mb`` is what the process *took* over its whole life. glibc keeps freed blocks, and cannot reuse most of
  them for aligned requests while small objects sit between them (sourceware bug 14581). What that adds depends on the order of
  allocations and says nothing about the method (docs/memory.md has both peaks of 21 configurations), but taking every block from
  the kernel costs time.

So the first steps are measured exactly and the rest run fast, unless memory is so scarce that the rest must be exact too.
A run that is continued is measured in every process that takes :data:`LAST_STEP` steps of it, and its peak is the largest of all.
No number computed by the run depends on any of this: only where tensors lie in memory changes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.memory import MB
from peftlab.nn.quantized import stored_tensors
from peftlab.nn.tensors import is_sharded, own
from peftlab.training.resident import allocate_exactly, peak_resident_mb, reset_peak, resident_mb

#: parts of the peak, in measurement and prediction alike
PARTS = ("process", "weights", "adapter", "optimizer", "activations", "gradients", "workspace")
#: who is served first when a peak is split
_CLAIMS = ("weights", "adapter", "optimizer", "activations", "process", "gradients")
SAVED_STEP, FIRST_STEP, LAST_STEP = 1, 2, 4  #: steps (from 0) of the count of saved tensors and of the exact peak
#: a heap is taken to grow to so many times what lives in it, on the safe side; where that is not free the run stays exact
HEAP_FACTOR = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """What one process of a run measured in its exact steps, in MB."""

    peak: float
    idle: float  #: between two steps
    held: dict[str, float] | None  #: what there was at that time; ranks and float weights may go later
    activations: float
    gradients: float


def split_peak(peak: float, parts: Mapping[str, float]) -> dict[str, float]:
    """``parts`` and ``workspace``, cut so that they sum to the peak.

    Gradients grow while activations shrink, so at the peak not all of either need be there; and a process that has freed small
    blocks puts new tensors there. So tensors are served first, then the process, then gradients; workspace is the rest.
    """
    found: dict[str, float] = {}
    left = peak
    for name in _CLAIMS:
        found[name] = min(parts[name], left)
        left -= found[name]
    found["workspace"] = left
    return {name: found[name] for name in PARTS}


def tensor_mb(tensors: Iterable[torch.Tensor | None]) -> float:
    """Size of the distinct storages behind the tensors."""
    storages = {s.data_ptr(): s.nbytes() for t in tensors if t is not None for s in [t.untyped_storage()] if s.nbytes()}
    return sum(storages.values()) / MB


def held_mb(adapted: Adapted, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """What a run keeps from one step to the next: frozen weights and buffers, as stored, the adapter, the optimizer's state."""
    module = adapted.module
    stored = (tensor for _, tensor in stored_tensors(module))
    everything = tensor_mb([*map(own, module.parameters()), *module.buffers(), *stored])
    adapter = tensor_mb(adapted.trainable().values())
    state = tensor_mb(v for values in optimizer.state.values() for v in values.values() if torch.is_tensor(v))
    return {"weights": everything - adapter, "adapter": adapter, "optimizer": state}


class MemoryMeter:
    """Measures while used as a context around loading and training; its hook tells it where the loop is.

    Loading belongs to it because float weights that are quantized are freed before training: from glibc's heap they leave room
    there, which is filled by the tensors of a step, however large, and never given back between two steps. Such a run then seemed
    to need as much as one in float.

    ``sample`` is cheap (one read of a small file) and is called after every step; ``result`` is kept in ``memory.json``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.notes: list[str] = []
        self.exact = False
        self._sum, self._count = 0.0, 0
        self._idle: float | None = None  #: between two steps of the exact phase
        self._held: dict[str, float] | None = None  #: what there was at that time; ranks and float weights may go later
        self._exact_peak: float | None = None
        self._process_peak = 0.0
        self._before: Exact | None = None  #: the largest of the processes that the run was continued from
        self._continued = False
        self.saved_mb = self.gradients_mb = 0.0  #: set by the hook
        self._hook: _MemoryHook | None = None

    def hook(self, adapted: Adapted) -> TrainingHook:
        self._hook = _MemoryHook(self, adapted)
        return self._hook

    def __enter__(self) -> MemoryMeter:
        if self.device.type == "cpu":
            self.exact = allocate_exactly(True)
            if not self.exact:
                self.notes.append("the allocator of this platform keeps freed blocks; the peak includes them")
        self._reset()
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.close()  # a step that raised has not come to its end
        if self._exact_peak is None and not self._continued:  # the whole run has fewer steps than the measurement wants
            self.measured(final=True)
        self._process_peak = max(self._process_peak, self._peak())
        if self.device.type == "cpu":
            allocate_exactly(False)

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            self._process_peak = max(self._process_peak, peak_resident_mb())
            if not reset_peak():
                self.notes.append("the kernel's high-water mark cannot be reset here; the peak includes loading")

    def _peak(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / MB
        if self.device.type == "mps":
            return max(self._process_peak, torch.mps.current_allocated_memory() / MB)  # MPS keeps no high-water mark
        return peak_resident_mb()

    def _now(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device) / MB
        if self.device.type == "mps":
            return torch.mps.current_allocated_memory() / MB
        return resident_mb()

    def sample(self) -> None:
        """Note the memory in use now, between two steps."""
        now = self._now()
        self._sum, self._count = self._sum + now, self._count + 1
        if self._exact_peak is None:
            self._rest(now)
        if self.device.type == "mps":
            self._process_peak = max(self._process_peak, now)

    def _rest(self, now: float) -> float:
        """Note what there is between two steps, with ``now`` MB in use."""
        self._held = self._hook.held() if self._hook is not None else None
        self._idle = now
        return now

    def begin_peak(self) -> None:
        """The peak counts from here: optimizer state is there, nothing is done for the first time."""
        if self.exact:
            allocate_exactly(True)  # gives back what small blocks of loading and of the first steps left
        self._reset()

    def measured(self, *, final: bool = False) -> None:
        """The exact phase is over: keep its peak, and let the rest run fast if memory allows."""
        self._exact_peak = self._peak()
        idle = self._rest(self._now()) if self._idle is None else self._idle
        if self.exact and not final:
            transient = self._exact_peak - idle
            if HEAP_FACTOR * transient * MB < psutil.virtual_memory().available:
                allocate_exactly(False)
            else:
                self.notes.append("memory is scarce: freed blocks are given back at once for the whole run, which costs time")

    def _largest(self) -> Exact | None:
        """Of this process and those before."""
        if self._exact_peak is None or self._idle is None:
            return self._before
        steps = {"activations": self.saved_mb, "gradients": self.gradients_mb}
        mine = Exact(peak=self._exact_peak, idle=self._idle, held=self._held, **steps)
        return max(filter(None, (self._before, mine)), key=lambda exact: exact.peak)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what was measured up to now, in this process and those before."""
        exact = self._largest()
        return {
            "exact": None if exact is None else dataclasses.asdict(exact),
            "process_peak": max(self._process_peak, self._peak()),
            "sum": self._sum,
            "count": self._count,
            "notes": self.notes,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; empty, of a checkpoint from before it was kept: nothing is known of the processes before."""
        self._continued = True
        if state:
            self._before = None if state["exact"] is None else Exact(**state["exact"])
            self._process_peak = max(self._process_peak, state["process_peak"])
            self._sum, self._count = self._sum + state["sum"], self._count + state["count"]
            self.notes = [*state["notes"], *self.notes]

    def result(self, adapted: Adapted, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """JSON: ``measured_peak_mb``, ``mean_mb``, ``process_peak_mb``, ``measured`` (the peak, by :func:`split_peak`).

        ``tensors_mb``: the same parts of the model as it is now, each counted by itself to the byte; ``quantized_mb``: what of
        the weights is stored in few bits, scales and tables included. Without a peak, of a run that no process took
        :data:`LAST_STEP` steps of in one go, nobody knows its parts either, nor activations and gradients: null, and a note.
        """
        now, exact = held_mb(adapted, optimizer), self._largest()
        steps = {"gradients": exact and exact.gradients, "activations": exact and exact.activations}
        few = f"no peak: the run was continued, and no process took the {LAST_STEP} steps in which it is measured"
        return {
            "measured_peak_mb": None if exact is None else round(exact.peak, 3),
            "mean_mb": round(self._sum / self._count, 3) if self._count else None,
            "process_peak_mb": round(max(self._process_peak, exact.peak if exact else 0.0), 3),
            "measured": None if exact is None else self._parts(exact, exact.held or now),
            "tensors_mb": {name: None if size is None else round(size, 6) for name, size in {**now, **steps}.items()},
            "quantized_mb": round(tensor_mb(tensor for _, tensor in stored_tensors(adapted.module)), 6),
            "device": self.device.type,
            "notes": list(dict.fromkeys([*self.notes, *([few] if exact is None else [])])),
        }

    def _parts(self, exact: Exact, held: Mapping[str, float]) -> dict[str, float]:
        process = max(0.0, exact.idle - sum(held.values())) if self.device.type == "cpu" else 0.0
        steps = {"gradients": exact.gradients, "activations": exact.activations}
        return {k: round(v, 3) for k, v in split_peak(exact.peak, {**held, **steps, "process": process}).items()}


class _MemoryHook(TrainingHook):
    """Tells the meter which step it is, and in one early step counts what autograd keeps for the backward pass.

    That step is not one of those whose peak counts: the hooks on saved tensors return each tensor as it is, so results are
    the same to the bit, but some tensors then live slightly longer.
    """

    name = "memory"

    def __init__(self, meter: MemoryMeter, adapted: Adapted) -> None:
        self.meter, self.adapted = meter, adapted
        self.optimizer: torch.optim.Optimizer | None = None
        self.done = 0
        self.left = math.inf
        self.counted: float = SAVED_STEP
        self.saved: dict[int, int] | None = None
        self.hooks: Any = None

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.left, self.optimizer = total_steps, optimizer

    def state(self) -> dict[str, Any]:
        return self.meter.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.meter.load(state)

    def held(self) -> dict[str, float] | None:
        """None before the first step."""
        return None if self.optimizer is None else held_mb(self.adapted, self.optimizer)

    def before_step(self, step: int) -> None:
        if self.done == 0:
            self.left -= step  # of a resumed run, what remains
        if self.done == FIRST_STEP:
            self.meter.begin_peak()
        self.counted = min(SAVED_STEP, self.left - 1)
        if self.done == self.counted and is_sharded(self.adapted.module):
            self.meter.notes.append("activations are not told from the workspace: weights are gathered and given back between")
        elif self.done == self.counted:
            self.saved = {}
            self.known = {
                t.untyped_storage().data_ptr() for t in (*self.adapted.module.parameters(), *self.adapted.module.buffers())
            }
            self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
            self.hooks.__enter__()

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if self.saved is not None and tensor.device.type == self.meter.device.type and storage.data_ptr() not in self.known:
            self.saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive in a cycle that nothing collects

    def penalty(self) -> None:
        """Asked after every forward pass: the first one of the step is counted, whatever is accumulated."""
        if self.saved is not None:
            self.meter.saved_mb = sum(self.saved.values()) / MB
            self.close()

    def after_backward(self, step: int) -> None:
        if self.done == self.counted:
            self.meter.gradients_mb = tensor_mb(p.grad for p in self.adapted.module.parameters())

    def close(self) -> None:
        if self.hooks is not None:
            self.hooks.__exit__(None, None, None)
            self.saved = self.hooks = None

    def after_step(self, step: int, updated: bool = True) -> None:
        self.done += 1
        if self.done == LAST_STEP:
            self.meter.measured()
