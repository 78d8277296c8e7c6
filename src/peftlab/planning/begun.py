"""What a study was begun with and has to go on with, though the machine has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from peftlab.errors import RecordError
from peftlab.records.store import ResultsFolder

#: label, backbone, task and data of an arm
Begun = tuple[str, str, str, str]


def begun_batches(folder: ResultsFolder) -> dict[Begun, int]:
    """Micro-batch of every arm that has runs; it is part of their ids, and ``auto`` is settled by the memory that is free.

    Not of arms that were trained elsewhere, nor of runs whose batch the tuning decided.
    """
    found: dict[Begun, int] = {}
    for run in folder.runs():
        with suppress(RecordError):  # `peftlab verify` names it
            config = run.config()
            batch = config.train.get("batch_size")
            if isinstance(batch, int) and "batch_size" not in config.tuned:
                found[begun_as(config.label, config.backbone, config.task, config.data_fingerprint)] = batch
    return found


def begun_as(label: str, backbone: str, task: Mapping[str, Any], data_fingerprint: str) -> Begun:
    """``task``: with all its options."""
    return label, backbone, json.dumps(task, sort_keys=True, default=str), data_fingerprint
