"""The test metrics of an exported model, as its folder holds it."""

from __future__ import annotations

from pathlib import Path

import torch

from peftlab.api._model_folder import Exported, load_forward
from peftlab.api.running import cache_folder
from peftlab.registry import create
from peftlab.tasks.contract import PreparedTask
from peftlab.training.evaluation import evaluate

_BATCH = 64


def evaluated(folder: Path, exported: Exported) -> dict[str, float]:
    """Metric -> value on the test split of the run's own task and preprocessing.

    Raises:
        DataError: the data are not there any more.
    """
    config = exported.config
    task: PreparedTask = create("task", config.task, key="kind", where="task").prepare(exported.preprocessing, cache_folder())
    indices = task.splits(config.seed, config.fold).test
    forward = load_forward(folder, exported)
    return evaluate(task, indices, forward, _BATCH, torch.device("cpu"), thresholds=exported.thresholds).compute()
