"""Which runs are computed together in one process (training/stack.py), how many of them, and why others are not.

Stacking pays where a step is so small that starting its operators takes the time, not computing them: small models and batches
on a CPU, most on a GPU. Memory and time of stacked runs are those of all together and are recorded as such, so a study that asks
what a method costs leaves it off, which is the default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Literal

from peftlab.errors import OptionError
from peftlab.planning.plan import PlannedRun
from peftlab.records.record import RunConfig
from peftlab.study.schema import Study
from peftlab.training.assemble import Ingredients

Wanted = Literal["off", "auto"] | int
MOST = 16  #: runs in one process, where the machine decides
#: predicted seconds of products and memory traffic in a joint step, up to which starting its operators is what takes the time
JOINT_STEP_S = 0.02


def wanted_stack(text: str) -> Wanted:
    """``off``, ``auto`` or the most runs in one process.

    Raises:
        OptionError: it is none of these.
    """
    if text in ("off", "auto"):
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 2:
        raise OptionError(
            f"{text!r} is no way to stack runs", where="--stack", remedy="off, auto, or the most runs in a process, e.g. 4"
        )
    return number


def why_not(config: RunConfig) -> str:
    """Why a run is not computed together with others, as far as its configuration tells; empty where it can be.

    What only the models show (hooks, random numbers within kernels) ends a stack at its first step, and the records say so.
    """
    parts = Ingredients.of_run(config)
    if parts.adapter.unstackable:
        return parts.adapter.unstackable
    if parts.task.input_kind == "text":
        return "batches of texts are as long as their longest text"
    if config.train.get("gradient_checkpointing"):
        return "with gradient checkpointing its layers are computed twice"
    if config.predicted.get("moving"):
        return "running statistics move in its passes (batch normalisation that trains)"
    prefix = config.predicted.get("prefix")
    if prefix and not prefix.get("why"):
        return "its frozen layers are computed once for all runs anyway"
    return ""


def stack_key(config: RunConfig) -> str:
    """Runs with equal keys stand on the same frozen weights and take batches of the same shape."""
    same = (config.backbone, config.task, config.quantizer, config.quantize, config.train.get("precision"), config.purpose)
    return json.dumps(same, sort_keys=True, default=str)


@dataclasses.dataclass(slots=True)
class Stacking:
    """Decides, when a run is begun, who begins with it."""

    wanted: Wanted = "off"
    known: dict[str, str] = dataclasses.field(default_factory=dict)  #: run id -> why not

    def companions(self, config: RunConfig, others: Iterable[RunConfig], free: int = 1) -> list[RunConfig]:
        """Those of ``others`` that are begun in one process with ``config``; ``free``: processes that can be begun now.

        As many as are wanted, or as the machine gains from; never so many that another process has nothing left to do.
        """
        if self.wanted == "off" or self.why_not(config):
            return []
        key = stack_key(config)
        alike = [other for other in others if stack_key(other) == key and not self.why_not(other)]
        share = -(-(1 + len(alike)) // max(1, free))
        return alike[: min(self.most(config), share) - 1]

    def most(self, config: RunConfig) -> int:
        """Runs in one process."""
        if isinstance(self.wanted, int):
            return self.wanted
        step_s = config.predicted.get("step_s")
        return max(1, min(MOST, int(JOINT_STEP_S / step_s))) if step_s else 1

    def why_not(self, config: RunConfig) -> str:
        if config.run_id not in self.known:
            self.known[config.run_id] = why_not(config)
        return self.known[config.run_id]


def sentences(runs: Iterable[PlannedRun], wanted: Wanted) -> list[str]:
    """What a reader of the plan should know about it."""
    if wanted == "off":
        return []
    configs = [run.config for run in runs if run.config is not None and not run.refusal]
    stacking = Stacking(wanted)
    able = [config for config in configs if not stacking.why_not(config) and stacking.most(config) > 1]
    said = []
    if able:
        most = max(stacking.most(config) for config in able)
        said.append(
            f"stacked: {_labels(able)}, up to {most} runs in one process; the memory and time of these runs are those of all "
            "together and are not compared"
        )
    reasons: dict[str, list[RunConfig]] = {}
    for config in configs:
        if config not in able:
            reason = stacking.why_not(config) or "a step is long enough to fill the machine by itself"
            reasons.setdefault(reason, []).append(config)
    return said + [f"not stacked: {_labels(found)}: {reason}" for reason, found in reasons.items()]


def check_stack(study: Study, wanted: Wanted) -> None:
    """Whether a study can be run that way at all.

    Raises:
        OptionError: its trackers follow processes.
    """
    if wanted != "off" and study.trackers:
        remedy = "leave out --stack, or the study's trackers"
        raise OptionError("trackers follow one run in a process", where="--stack", remedy=remedy)


def _labels(configs: Sequence[RunConfig]) -> str:
    return ", ".join(dict.fromkeys(config.label for config in configs))
