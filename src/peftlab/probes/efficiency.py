"""Efficiency: FLOPs of a step, how much of the machine's matrix-product rate was used, processor time, energy."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from pathlib import Path
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.flops import flop_counter, product_rate
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.contract import Probe, View

_COUNTED_STEP = 1  #: the second step: the first allocates
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


class _Hook(TrainingHook):
    name = "efficiency"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flops: int | None = None
        self.counter: Any = None
        self.times: list[float] = []
        self.began = self.cpu_began = 0.0
        self.energy_began: float | None = None
        self.result: dict[str, Any] = {}

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.began, self.cpu_began, self.energy_began = time.perf_counter(), time.process_time(), _energy_j()

    def before_step(self, step: int) -> None:
        self.step_began = time.perf_counter()
        if step == _COUNTED_STEP:
            self.counter = flop_counter()
            self.counter.__enter__()

    def after_backward(self, step: int) -> None:
        if self.counter is not None:
            self.flops = self.counter.get_total_flops()
            self.close()

    def close(self) -> None:
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.counter = None

    def after_step(self, step: int, updated: bool = True) -> None:
        if step != _COUNTED_STEP:
            self.times.append(time.perf_counter() - self.step_began)

    def finish(self) -> None:
        wall, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu_began
        step_s = statistics.median(self.times) if self.times else None
        rate = product_rate(self.device) if self.flops and step_s else None
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.result = {
            "step_gflop": self.flops / 1e9 if self.flops else None,
            "product_gflop_per_s": rate / 1e9 if rate else None,
            "utilisation": self.flops / step_s / rate if self.flops and step_s and rate else None,
            "processor_percent": 100 * cpu / wall if wall else None,  # 100 = one core busy all the time
            "page_faults": usage.ru_majflt,
            "energy_j": self._energy_used(),  # whole package
        }

    def _energy_used(self) -> float | None:
        energy = _energy_j()
        return None if energy is None or self.energy_began is None else energy - self.energy_began

    def report(self) -> dict[str, Any]:
        return {"efficiency.json": self.result}


def _energy_j() -> float | None:
    """Joules counted by the processor so far; None where it does not tell (or not to us)."""
    try:
        return int(_RAPL.read_text()) / 1e6
    except (OSError, ValueError):
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency(Probe):
    """Utilisation = FLOPs of a step / its median time / matrix-product rate measured in the same process."""

    name: ClassVar[str] = "efficiency"

    def hook(self, adapted: Adapted, view: View) -> TrainingHook:
        return _Hook(next(adapted.module.parameters()).device)
