"""SQuAD: from the hub, or from its own files."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar

from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.datasets import TextDatasets
from peftlab.tasks.text.squad_json import SquadJson


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Squad(TextSource):
    """One version of SQuAD. Its test answers are not public, so its development set serves as test."""

    hub: ClassVar[str]

    path: str | None = None  #: folder with train.json and dev.json, or one such file, in place of the hub
    revision: str | None = None  #: commit, tag or branch on the hub

    def fingerprint(self, cache: Path | None = None) -> str:
        return hashlib.sha256(f"{self.name} 1 {self._source().fingerprint(cache)}".encode()).hexdigest()

    def read(self) -> Rows:
        return self._source().read()

    def _source(self) -> TextSource:
        return SquadJson(path=self.path) if self.path else TextDatasets(id=self.hub, revision=self.revision)
