"""What the other processes of a run do (execution/crew.py): the first one's model, trained on their share of every batch."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from peftlab.adapters.contract import Adapted
from peftlab.execution.fallback import Attempt
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.record import RunConfig
from peftlab.tasks.contract import PreparedTask
from peftlab.training.assemble import Ingredients, base_probe
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.evaluation import to_device
from peftlab.training.loop import Trainer
from peftlab.training.quantization import Batches
from peftlab.training.sharding import shard_frozen
from peftlab.training.team import Team
from peftlab.training.unread_rows import try_last_block


def follow(
    team: Team, config: RunConfig, options: WorkerOptions, attempt: Attempt, layers: Mapping[str, bool], checkpoints: Path
) -> None:
    """Train as the first process of the run does, and write nothing. ``layers``: how they are computed (FusedRecord.begin)."""
    set_determinism(options)
    ingredients = Ingredients.of_run(config)
    ingredients = dataclasses.replace(ingredients, quantizer=attempt.quantizer or ingredients.quantizer, **layers)
    task = ingredients.task.prepare(ingredients.preprocessing(), options.cache)
    adapted = build(ingredients, task, config, attempt, options)
    if options.shard:
        shard_frozen(adapted, attempt.device, team)
    trainer = Trainer(
        adapted=adapted,
        task=task,
        splits=task.splits(config.seed, config.fold),
        train=attempt.train,
        seed=config.seed,
        device=attempt.device,
        precision=attempt.precision,
        checkpoints=Checkpoints(checkpoints),
        hooks=adapted.hooks,
        team=team,
    )
    fitted = trainer.fit()
    if options.shard and config.evaluate_test and fitted.diverged_at is None:
        trainer.evaluate("test")  # the first cannot without our part of the weights


def build(
    ingredients: Ingredients,
    task: PreparedTask,
    config: RunConfig,
    attempt: Attempt,
    options: WorkerOptions,
    batches: Batches | None = None,
) -> Adapted:
    """The model of a run: on its device, or where it will be sharded in main memory still.

    With ``batches`` of its task a hook reports what quantization did.
    """
    splits = task.splits(config.seed, config.fold)
    look = functools.partial(base_probe, task=task, splits=splits, train=attempt.train, seed=config.seed)
    reported = None if batches is None else task
    device = torch.device("cpu") if options.shard else attempt.device
    adapted = ingredients.build(task.info.outputs, config.seed, device, look, reported, batches or ())
    try_last_block(adapted, task.inputs(to_device(task.batch(splits.train[:2]), device)))
    return adapted


def set_determinism(options: WorkerOptions) -> None:
    """Threads and deterministic kernels, as every process of a run has them."""
    torch.set_num_threads(options.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it cuBLAS may vary its sums
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore  # nobody reads it; filling takes time
        torch.backends.cudnn.benchmark = False
    Path(options.cache).mkdir(parents=True, exist_ok=True)
