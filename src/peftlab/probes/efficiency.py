"""Efficiency: FLOPs of a step, how much of the machine's matrix-product rate was used, processor time, energy."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.flops import flop_counter, product_rate
from peftlab.nn.hooks import TrainingHook
from peftlab.probes._energy import PackageEnergy
from peftlab.probes.contract import Probe, View

_COUNTED_STEP = 1  #: the second step: the first allocates
TIMED = 100  #: other steps, at most, whose amount is asked for, spread evenly over the run


class _Hook(TrainingHook):
    name = "efficiency"

    def __init__(self, device: torch.device, dtype: torch.dtype, amount: Callable[[int], int]) -> None:
        self.device, self.dtype, self.amount = device, dtype, amount
        self.flops: int | None = None
        self.counter: Any = None
        self.times: dict[int, float] = {}  #: step -> seconds; of every ``stride``-th step
        self.stride = 1
        #: of the processes that the run was continued from
        self.before: dict[str, float | None] = {"wall_s": 0.0, "cpu_s": 0.0, "energy_j": 0.0}
        self.result: dict[str, Any] = {}

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.began, self.cpu_began, self.energy = time.perf_counter(), time.process_time(), PackageEnergy()

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
        if step != _COUNTED_STEP and step % self.stride == 0:
            self.times[step] = time.perf_counter() - self.step_began
            if len(self.times) > 2 * TIMED:
                self.stride *= 2
                self.times = {number: seconds for number, seconds in self.times.items() if number % self.stride == 0}
        self.energy.look()

    def _spent(self) -> dict[str, float | None]:
        """Of all processes of the run up to now; what one of them did after its last checkpoint, others do again."""
        self.energy.look(at_once=True)
        now = {
            "wall_s": time.perf_counter() - self.began,
            "cpu_s": time.process_time() - self.cpu_began,
            "energy_j": self.energy.joules,
        }
        return {key: None if value is None or (old := self.before[key]) is None else old + value for key, value in now.items()}

    def state(self) -> dict[str, Any]:
        times = {str(step): seconds for step, seconds in self.times.items()}
        return {"flops": self.flops, "times": times, "stride": self.stride, "before": self._spent()}

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.times = {int(step): seconds for step, seconds in state["times"].items()}
            self.flops, self.stride, self.before = state["flops"], state["stride"], state["before"]

    def finish(self) -> None:
        spent = self._spent()
        wall, cpu = spent["wall_s"], spent["cpu_s"]
        amount = self.amount(_COUNTED_STEP) if self.flops else None
        speed = self._amount_per_s() if amount else None
        rate = product_rate(self.device, dtype=self.dtype) if speed else None
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.result = {
            "step_gflop": self.flops / 1e9 if self.flops else None,
            "step_amount": amount,
            "product_gflop_per_s": rate / 1e9 if rate else None,
            "product_type": str(self.dtype).removeprefix("torch."),
            "utilisation": self.flops / amount * speed / rate if self.flops and amount and speed and rate else None,
            "processor_percent": 100 * cpu / wall if wall and cpu is not None else None,  # 100 = one core busy all the time
            "page_faults": usage.ru_majflt,
            "energy_j": spent["energy_j"],
        }

    def _amount_per_s(self) -> float | None:
        """Median over steps: their own amounts over their own times, since steps differ in size (the last one of an epoch)."""
        steps = sorted(self.times)
        chosen = np.linspace(0, len(steps) - 1, min(TIMED, len(steps))).round().astype(int)
        speeds = [self.amount(step) / self.times[step] for step in (steps[i] for i in chosen) if self.times[step] > 0]
        return statistics.median(speeds) if speeds else None

    def report(self) -> dict[str, Any]:
        return {"efficiency.json": self.result}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency(Probe):
    """Utilisation = FLOPs per example (of texts, per token) x examples per second / FLOP/s of a matrix product.

    FLOPs are those of the second step (``step_gflop``), which sees ``step_amount`` examples, or tokens with padding; examples
    per second the median over the others, each with its own number of them. The product is one in the precision of the run
    (``product_type``), measured in the same process. ``energy_j``: of all packages of the processor, the other
    programs of the machine included, from the start of training to its end; of a run that was continued, up to the checkpoints
    that it was continued from and from there on. Written as ``efficiency.json``.
    """

    name: ClassVar[str] = "efficiency"

    def hook(self, adapted: Adapted, view: View) -> TrainingHook:
        return _Hook(next(adapted.module.parameters()).device, getattr(torch, view.precision), view.amount)
