"""Which attempts of a run were given up for another, so that a run that is continued goes on with the last of them.

``fallback.json`` of a run that fell back (execution/fallback.py): ``first``, the attempt that it began with, and ``answers``,
each with the ``attempt`` given up, the ``flag`` that tables show, ``next``: how the run is tried from there, and ``spent``: what
it had taken until then (training/spent.py), because its total is that of all attempts. Without the file the
first attempt would be gone through again, and its lines would stand in the journal before those of the one after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from peftlab.execution.fallback import Attempt
from peftlab.records.run_folder import FALLBACK, RunFolder
from peftlab.registry import create
from peftlab.training.spent import Spent


class Answered:
    """Of one run, which begins with the attempt ``first``.

    A run that would begin with another attempt here than it did (on another device, say) is begun anew.
    """

    def __init__(self, folder: RunFolder, first: Attempt) -> None:
        self.folder, self.first = folder, first

    def last(self, spent: Spent) -> tuple[Attempt, list[str]]:
        """(how the run is tried now, the flags of what was given up before); ``spent`` goes on from there.

        Raises:
            RecordError: the file is damaged.
        """
        known = self._known()
        if not known:
            return self.first, []
        spent.load(known[-1].get("spent"))
        return _attempt(known[-1]["next"], self.first), [answer["flag"] for answer in known]

    def add(self, given_up: Attempt, flag: str, following: Attempt, spent: Mapping[str, Any]) -> None:
        """Written before anything of ``following`` is. ``spent``: by ``Spent.give_up``."""
        answer = {"attempt": given_up.name, "flag": flag, "next": _record(following), "spent": dict(spent)}
        self.folder.write_json(FALLBACK, {"first": self.first.name, "answers": [*self._known(), answer]})

    def _known(self) -> list[dict[str, Any]]:
        content = self.folder.read_json(FALLBACK) or {}
        return content["answers"] if content.get("first") == self.first.name else []


def _record(attempt: Attempt) -> dict[str, Any]:
    return {
        "device": attempt.device.type,
        "precision": attempt.precision,
        "batch_size": attempt.train.batch_size,
        "effective_batch_size": attempt.train.effective_batch_size,
        "quantizer": attempt.quantizer.spec() if attempt.again and attempt.quantizer else None,
    }


def _attempt(record: dict[str, Any], first: Attempt) -> Attempt:
    """What :func:`_record` wrote; all else is as the run began."""
    batches = {key: record[key] for key in ("batch_size", "effective_batch_size")}
    device = first.device if record["device"] == first.device.type else torch.device(record["device"])
    other = {"quantizer": create("quantizer", record["quantizer"]), "again": True} if record["quantizer"] else {}
    return dataclasses.replace(
        first, device=device, precision=record["precision"], train=first.train.model_copy(update=batches), **other
    )
