"""Whether the training steps of an arm are compiled (training/compiled.py): where that is predicted to pay over the whole study.

gain_s = n steps step_s (1 - ratio)     cost_s = (cold_s + (n - 1) warm_s) operations / operations of the trial

for the n runs of an arm, whose kernels are compiled once and kept. ``ratio``, ``cold_s`` and ``warm_s`` are measured once on this
machine (planning/compile_trial.py), on the bundled backbone with LoRA.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from peftlab.errors import OptionError, PeftlabError
from peftlab.planning.arms import Ready
from peftlab.planning.machine import measured_file
from peftlab.planning.plan import PlanOptions
from peftlab.planning.sharing import decide, runs_of, schedule_of
from peftlab.study.schema import Study

Wanted = Literal["off", "auto", "on"]
MARGIN = 1.2  #: predicted gain by predicted cost, from which on it is worth while
_TIMEOUT_S = 900


def wanted_compile(text: str) -> Wanted:
    """Raises OptionError for anything but off, auto, on."""
    if text not in get_args(Wanted):
        raise OptionError(f"{text!r} does not say whether to compile", where="--compile", remedy="off, auto or on")
    return text  # pyright: ignore


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """What compiling was worth on this machine."""

    ratio: float  #: time of a compiled step by that of a plain one
    cold_s: float  #: of the first compilation
    warm_s: float  #: of the next one of the same, in another process
    operations: float  #: of the step that was compiled


def trial(cache: Path, device: str) -> Trial:
    """Measured on this machine, by this version of everything, once: a minute or two.

    Raises:
        PeftlabError: nothing can be compiled here.
    """
    file = measured_file(cache, "compile", device)
    try:
        return Trial(**{name: float(value) for name, value in json.loads(file.read_text()).items()})
    except (OSError, ValueError, TypeError):
        pass
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "peftlab.planning.compile_trial", device]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        found = Trial(**json.loads(done.stdout.strip().splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, TypeError, IndexError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or [""]
        raise PeftlabError(
            f"torch.compile does not work here: {said[-1][:200]}",
            where=f"--compile, {device}",
            remedy="leave it out, or install a C++ compiler (CPU) or Triton (CUDA); `peftlab doctor --full` tries it",
        ) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(dataclasses.asdict(found)))
    part.replace(file)
    return found


def why_not(item: Ready, study: Study, items: Sequence[Ready], options: PlanOptions) -> str:
    """Why the steps of an arm cannot be compiled; empty where they can, as far as the plan knows."""
    parts = item.ingredients
    if parts.task.input_kind == "text":
        return "batches of texts have many shapes, each to be compiled"
    if parts.trains_quantized:
        return "quantized layers call kernels of their own"
    if parts.allocator is not None and parts.allocator.acts:
        return f"{parts.allocator.name} changes during training what is computed"
    if item.train.gradient_checkpointing:
        return "gradient checkpointing computes layers twice"
    decision = decide(items, item, schedule_of(item, item.train), study, options)
    return "its frozen layers are computed once for all runs" if decision is not None and not decision.why else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Of one arm."""

    compiles: bool
    words: str  #: for the plan


def verdict(item: Ready, study: Study, items: Sequence[Ready], options: PlanOptions, wanted: Wanted, device: str) -> Verdict:
    """Whether its steps are compiled, and why."""
    reason = why_not(item, study, items, options)
    if reason:
        return Verdict(False, f"not compiled: {item.cell.label}: {reason}")
    if wanted == "on":
        return Verdict(True, f"compiled: {item.cell.label}, as asked")
    estimate = item.forecast.used(None)
    if estimate is None:
        return Verdict(False, f"not compiled: {item.cell.label}: nothing is predicted, so nobody knows whether it pays")
    schedule, runs = schedule_of(item, item.train), min(runs_of(item, study), options.max_runs or sys.maxsize)
    saved, cost = gain_and_cost(
        trial(options.cache, device),
        runs=runs,
        seconds=runs * schedule.total * (schedule.effective_batch / schedule.batch) * estimate.step_time_s,
        operations=estimate.operations,
    )
    about = f"{item.cell.label}, {runs} runs: predicted to save {saved:.3g} s of steps for {cost:.3g} s of compiling"
    return Verdict(True, f"compiled: {about}") if saved > MARGIN * cost else Verdict(False, f"not compiled: {about}")


def gain_and_cost(found: Trial, *, runs: int, seconds: float, operations: int) -> tuple[float, float]:
    """(seconds saved, seconds of compiling) over all runs of an arm.

    Args:
        seconds: predicted, of all steps of all its runs.
        operations: of one step.
    """
    cost = (found.cold_s + max(0, runs - 1) * found.warm_s) * operations / found.operations
    return seconds * (1 - found.ratio), cost
