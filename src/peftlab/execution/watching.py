"""What watches a run: the probes, as the study wants them, and as far as the run can be watched."""

from __future__ import annotations

import functools

import torch

from peftlab.adapters.contract import Adapted
from peftlab.execution.protocol import WorkerOptions
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.contract import View, probes_of
from peftlab.records.record import RunConfig
from peftlab.tasks.contract import PreparedTask, Splits
from peftlab.training.assemble import Ingredients


def watching(
    ingredients: Ingredients,
    task: PreparedTask,
    splits: Splits,
    adapted: Adapted,
    config: RunConfig,
    options: WorkerOptions,
    device: torch.device,
) -> tuple[list[TrainingHook], list[str]]:
    """(hooks of the probes, notes on probes that sharded weights leave out)."""
    view = View(
        task=task,
        splits=splits,
        device=device,
        zero_at_start=ingredients.zero_at_start,
        fresh=functools.partial(ingredients.build, task.info.outputs, config.seed),
    )
    probes, notes = [p for p in probes_of(options.probes) if p.in_tuning or config.purpose != "tuning"], []
    if options.shard and (without := [p.name for p in probes if p.needs_whole]):
        notes.append(f"not with sharded weights: {', '.join(without)}")
        probes = [p for p in probes if not p.needs_whole]
    return [hook for probe in probes if (hook := probe.hook(adapted, view)) is not None], notes
