"""Whether the training steps of a run are compiled (training/compiled.py), as its record says it and as it goes on with.

``compiled.json`` of a run (execution/attempts.py): ``attempt``, ``asked``, ``compiled`` (whether they are), ``why`` not,
``seconds`` that it took. Compiled and plain steps agree up to rounding only, so a run that is continued goes on the way it was
begun.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftlab.adapters.contract import Adapted
from peftlab.errors import RecordError
from peftlab.execution.attempts import Attempts
from peftlab.execution.fallback import Attempt
from peftlab.records.run_folder import RunFolder
from peftlab.tasks.contract import PreparedTask, Splits
from peftlab.training.compiled import Compiled
from peftlab.training.evaluation import to_device
from peftlab.training.passes import Passes

FILE = "compiled.json"


class CompiledRecord:
    """Of one run. ``wanted``: the plan found that compiling pays, or was told to compile."""

    def __init__(self, folder: RunFolder, wanted: bool, cache: Path) -> None:
        self.attempts, self.wanted, self.cache = Attempts(folder, FILE), wanted, cache
        self.record: dict[str, Any] = {}

    def passes(self, attempt: Attempt, adapted: Adapted, task: PreparedTask, splits: Splits, why_not: str) -> Passes:
        """Who computes the steps.

        Args:
            adapted, task, splits: of the run; its first examples are what is compiled and compared with.
            why_not: what the caller has against it.

        Raises:
            RecordError: the record is damaged, or steps of the run were compiled and cannot be now.
        """
        begun = self.attempts.begun(attempt.name)
        if not (self.wanted if begun is None else begun.get("compiled")):
            return Passes()
        reason = why_not or _why_not(adapted)
        compiled = Compiled(self.cache, attempt.device, attempt.precision)
        if not reason:
            rows = splits.train[: int(attempt.train.batch_size)]
            compiled.prepare(adapted, task.inputs(to_device(task.batch(rows), attempt.device)))
            reason = compiled.why
        if begun is not None and reason:
            raise RecordError(
                f"the run was begun with compiled steps, and now {reason}",
                where=str(self.attempts.folder.path),
                remedy="mend that, or move the run's folder away to start afresh",
            )
        about = {"attempt": attempt.name, "asked": True, "compiled": not reason, "seconds": round(compiled.seconds, 3)}
        self.record = {**about, **({"why": reason} if reason else {})}
        self.attempts.write(self.record)
        return Passes() if reason else compiled

    @property
    def flags(self) -> list[str]:
        """For every table that shows times."""
        return ["compiled steps, whose compiling is not in their time"] if self.record.get("compiled") else []

    @property
    def notes(self) -> list[str]:
        return [f"its steps are not compiled: {self.record['why']}"] if self.record.get("why") else []


def _why_not(adapted: Adapted) -> str:
    for hook in adapted.hooks:
        return f"{hook.name} may change during training what is computed"
    return ""
