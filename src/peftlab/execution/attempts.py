"""How each attempt of a run was begun, in one JSON file of its folder, so that a run that is continued goes on the same way.

The file holds the attempt in hand, its name under ``attempt``, and under ``earlier`` those that the run fell back from
(execution/fallback.py) or that were begun on another device.
"""

from __future__ import annotations

from typing import Any

from peftlab.records.run_folder import RunFolder


class Attempts:
    """Of one run, in the file ``name``."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.folder, self.name = folder, name

    def begun(self, attempt: str) -> dict[str, Any] | None:
        """How an attempt that has checkpoints was begun, empty where nobody wrote it down; None for one that is new.

        Raises:
            RecordError: the file is damaged.
        """
        if not (self.folder.checkpoints / attempt).is_dir():
            return None
        return next((known for known in self._known() if known.get("attempt") == attempt), {})

    def write(self, record: dict[str, Any]) -> None:
        """``record`` has the attempt's name under ``attempt``."""
        earlier = [known for known in self._known() if known.get("attempt") != record["attempt"]]
        self.folder.write_json(self.name, {**record, **({"earlier": earlier} if earlier else {})})

    def _known(self) -> list[dict[str, Any]]:
        content = self.folder.read_json(self.name) or {}
        last = {key: value for key, value in content.items() if key != "earlier"}
        return [last, *content.get("earlier", ())] if last else []
