"""Merge equivalence: whether the merged model gives the outputs of the one that was trained, and how fast both are."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.errors import OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.memory import MB, memory_mb
from peftlab.nn.quantized import parameter_sizes
from peftlab.probes.contract import Probe, View, looking

FILE = "merge_equivalence.json"
SIZE = 8  #: examples of a batch, and the larger size that is timed
FEWEST, MOST = 3, 5  #: repeats of a timing: every run has one, and its time is the user's
SECONDS = 0.5  #: that the repeats of one size take, unless the fewest take longer
FLOAT_BYTES = 4
Inputs = Mapping[str, torch.Tensor]


class _Hook(TrainingHook):
    name = "merge_equivalence"

    def __init__(self, probe: MergeEquivalence, adapted: Adapted, view: View) -> None:
        self.probe, self.adapted, self.view = probe, adapted, view

    def report(self) -> dict[str, Any]:
        """When training, its evaluation and the measurement of its memory are over."""
        if reason := self._left_out():
            return {FILE: {"left_out": reason}}
        merged = self.adapted.adapter.merge(self.adapted)  # of a copy
        with looking(self.adapted.module), looking(merged):
            return {FILE: self._compared(merged)}

    def _left_out(self) -> str:
        """Why nothing is compared."""
        adapter, adapted = self.adapted.adapter, self.adapted
        added = (n for n in adapted.trainable() if not adapted.is_head(n))
        if all(name.removeprefix("base_model.model.") in adapted.own_parameters for name in added):
            return "nothing was added to the backbone: there is nothing to merge"
        if not adapter.mergeable:
            return "the adapter cannot be merged: what it adds is no linear map of any layer's weights"
        held = sum(tensor.nbytes for tensor in (*adapted.module.parameters(), *adapted.module.buffers()))
        needed = (held + FLOAT_BYTES * sum(parameter_sizes(adapted.module).values())) / MB
        _, free = memory_mb(self.view.device.type)
        if needed > self.probe.memory * free:
            return f"a copy needs {needed:.0f} MB and {self.probe.memory:g} of the free {free:.0f} MB were allowed"
        return ""

    def _compared(self, merged: nn.Module) -> dict[str, Any]:
        batches = []
        for batch in self.view.batches(self.probe.batches * SIZE, SIZE):
            inputs = self.view.task.inputs(batch)
            expected, found = self._outputs(self.adapted.module, inputs), self._outputs(merged, inputs)
            batches.append(_differences(expected, found))
        not_finite = sum(b["max_difference"] is None for b in batches)
        relative = _largest(b["relative"] for b in batches)
        tolerance = self.probe.tolerance or self.adapted.adapter.merge_tolerance
        split, chosen = self.view.examples(self.probe.batches * SIZE)
        return {
            "split": split,
            "examples": len(chosen),
            "max_difference": None if not_finite else _largest(b["max_difference"] for b in batches),
            "relative": None if not_finite else relative,
            "tolerance": tolerance,
            "within": not not_finite and relative is not None and relative <= tolerance,
            "not_finite": not_finite,
            "batches": batches,
            "threads": torch.get_num_threads(),
            "latency": [self._timed(merged, size) for size in dict.fromkeys((1, min(SIZE, len(chosen))))],
        }

    def _outputs(self, module: nn.Module, inputs: Inputs) -> torch.Tensor:
        return self.adapted.backbone.outputs(module, inputs).double()

    def _timed(self, merged: nn.Module, examples: int) -> dict[str, Any]:
        """Median times of both, taken in turn after one call each."""
        part = self.view.task.inputs(next(self.view.batches(examples, examples)))
        calls: tuple[Callable[[], Any], ...] = tuple(
            lambda m=m: self.adapted.backbone.outputs(m, part) for m in (self.adapted.module, merged)
        )
        warm = sum(self._seconds(call) for call in calls)
        repeats = max(FEWEST, min(MOST, int(SECONDS / warm)))
        times = [[self._seconds(call) for call in calls] for _ in range(repeats)]
        adapter, plain = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        return {"rows": len(next(iter(part.values()))), "repeats": repeats, "adapter_ms": adapter, "merged_ms": plain}

    def _seconds(self, call: Callable[[], Any]) -> float:
        self._wait()
        begin = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.view.device.type == "cuda":
            torch.cuda.synchronize(self.view.device)
        elif self.view.device.type == "mps":
            torch.mps.synchronize()


def _differences(expected: torch.Tensor, found: torch.Tensor) -> dict[str, float | None]:
    """Of one batch: None for both where either model says something that is not finite, for the second where all is zero."""
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not math.isfinite(difference):
        return {"max_difference": None, "relative": None}
    return {"max_difference": difference, "relative": difference / largest if largest else None}


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergeEquivalence(Probe):
    """Outputs of the merged model against the trained one, on validation batches of 8, and the latency of both.

    ``max_difference`` is the largest |merged - trained| over all logits, ``relative`` the same over the largest |trained| of
    its batch, the worst batch counting; float32, evaluation mode. Both are None, and nothing is ``within`` the tolerance, where
    an output was not finite in any batch (``not_finite``: in how many). Latency: medians of 3 to 5 calls, both models in
    turn, in this process with its threads, of 1 example and of 8. The trained model is not touched: a copy is merged, after
    the test, which needs the model's own size and that of its float32 weights once more for a moment. Left out, with the
    reason in the record: adapters that cannot merge or add nothing, and copies larger than ``memory`` allows. Of a quantized
    base the merged model is in float, or packed where the adapter merges into the codes' zero points (QA-LoRA). Written as
    ``merge_equivalence.json``.
    """

    name: ClassVar[str] = "merge_equivalence"
    in_tuning: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = True

    batches: int = 4  #: of 8 validation examples; 0: not compared
    tolerance: float | None = None  #: of ``relative``; default the adapter's own
    memory: float = 0.5  #: share of the free memory that copies may take

    def __post_init__(self) -> None:
        if self.batches < 0:
            raise OptionError(f"must be at least 0, got {self.batches}", where="batches", remedy="e.g. 4")
        if self.tolerance is not None and self.tolerance <= 0:
            raise OptionError(f"must be above 0, got {self.tolerance:g}", where="tolerance", remedy="e.g. 1e-4")
        if not 0 < self.memory <= 1:
            raise OptionError(f"must be above 0 and at most 1, got {self.memory:g}", where="memory", remedy="e.g. 0.5")

    def hook(self, adapted: Adapted, view: View) -> TrainingHook | None:
        return _Hook(self, adapted, view) if self.batches else None
