"""Whether the adapted layers of a run are fused (nn/fused_layers.py) and rows that nobody reads are left out of its last block
(nn/last_block.py), as its record says it and as it goes on with.

``fused.json`` of a run (execution/attempts.py): ``attempt``, ``asked``, ``fused`` (how many layers), ``left`` (the others, by
reason), ``why`` none is; ``read_rows`` (whether such rows are left out), ``last_block`` why not.
Fused and plain layers give the same numbers up to rounding, and dropout masks of the same distribution but other draws, so a run
that is continued goes on the way it was begun.
"""

from __future__ import annotations

from typing import Any

from peftlab.adapters.contract import Adapted
from peftlab.execution.attempts import Attempts
from peftlab.nn.last_block import LastBlock
from peftlab.records.run_folder import RunFolder

FILE = "fused.json"


class FusedRecord:
    """Of one run."""

    def __init__(self, folder: RunFolder, wanted: bool) -> None:
        self.attempts, self.wanted = Attempts(folder, FILE), wanted
        self.record: dict[str, Any] = {}
        self.before = ""  #: why a run that is continued was begun with every row read

    def begin(self, attempt: str) -> tuple[dict[str, bool], list[str]]:
        """(``fused`` and ``read_rows`` of this attempt: as it was begun, else as is wanted; a note where the two differ).

        Runs from before layers could be fused, or rows left out, say nothing of it: they go on as the libraries compute.

        Raises:
            RecordError: the record is damaged.
        """
        begun = self.attempts.begun(attempt)
        asked = self.wanted if begun is None else begun.get("asked") is True
        rows = self.wanted if begun is None else begun.get("read_rows") is True
        self.record = {"attempt": attempt, "asked": asked}
        self.before = "" if begun is None else begun.get("last_block", "")
        how = "fused" if asked else "not fused"
        found = {"fused": asked, "read_rows": rows}
        return found, [f"went on with its adapted layers {how}, as it was begun"] if asked != self.wanted else []

    def write(self, adapted: Adapted) -> None:
        """What became of the layers: once they are there, and again when training has shown what their calls did."""
        rows = isinstance(adapted.last, LastBlock)
        why = "" if rows else adapted.last or self.before  # which is not asked again of a run that goes on
        last = {"read_rows": rows, **({"last_block": why} if why else {})}
        self.record = {"attempt": self.record["attempt"], "asked": self.record["asked"], **adapted.fused.record(), **last}
        self.attempts.write(self.record)

    @property
    def counts(self) -> dict[str, int]:
        """For the times of a run: adapted layers that were fused and that were not."""
        return {"fused_layers": self.record["fused"], "plain_layers": sum(map(len, self.record["left"].values()))}
