"""What a study was begun with and has to go on with, though the machine has changed."""

from __future__ import annotations

from contextlib import suppress

from peftlab.errors import RecordError
from peftlab.records.store import ResultsFolder

#: label, backbone and data of an arm
Arm = tuple[str, str, str]


def begun_batches(folder: ResultsFolder) -> dict[Arm, int]:
    """Micro-batch of every arm that has runs; it is part of their ids, and ``auto`` is settled by the memory that is free."""
    found: dict[Arm, int] = {}
    for run in folder.runs():
        with suppress(RecordError):  # `peftlab verify` names it
            config = run.config()
            found[config.label, config.backbone, config.data_fingerprint] = config.train["batch_size"]
    return found
