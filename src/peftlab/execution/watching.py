"""What watches a run: the probes, as the study wants them, and as far as the run can be watched."""

from __future__ import annotations

import functools
from collections.abc import Callable

from peftlab.adapters.contract import Adapted
from peftlab.execution.fallback import Attempt
from peftlab.execution.protocol import WorkerOptions
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.contract import View, probes_of
from peftlab.records.record import RunConfig
from peftlab.study.schema import Train
from peftlab.tasks.contract import PreparedTask, Splits
from peftlab.training.assemble import Ingredients
from peftlab.training.schedule import Schedule


def watching(
    ingredients: Ingredients,
    task: PreparedTask,
    splits: Splits,
    adapted: Adapted,
    config: RunConfig,
    options: WorkerOptions,
    attempt: Attempt,
) -> tuple[list[TrainingHook], list[str]]:
    """(hooks of the probes, notes on probes that sharded weights leave out)."""
    view = View(
        task=task,
        splits=splits,
        device=attempt.device,
        precision=attempt.precision,
        amount=amounts(task, splits, attempt.train, config.seed),
        zero_at_start=ingredients.zero_at_start,
        fresh=functools.partial(ingredients.build, task.info.outputs, config.seed, ranks=dict(adapted.ranks)),
    )
    probes, notes = [p for p in probes_of(options.probes) if p.in_tuning or config.purpose != "tuning"], []
    if options.shard and (without := [p.name for p in probes if p.needs_whole]):
        notes.append(f"not with sharded weights: {', '.join(without)}")
        probes = [p for p in probes if not p.needs_whole]
    return [hook for probe in probes if (hook := probe.hook(adapted, view)) is not None], notes


def amounts(task: PreparedTask, splits: Splits, train: Train, seed: int) -> Callable[[int], int]:
    """Step of training -> examples that it computes with; of texts, which differ in length, tokens with padding."""
    schedule, lengths = Schedule.of(train, len(splits.train)), task.lengths(splits.train)

    def amount(step: int) -> int:
        batches = schedule.micro_batches(step, splits.train, seed, lengths)
        if task.task.input_kind == "image":
            return sum(map(len, batches))
        tokens = [next(iter(task.inputs(task.batch(indices)).values())) for indices in batches]  # [rows, length] each
        return sum(batch.shape[:2].numel() for batch in tokens)

    return amount
