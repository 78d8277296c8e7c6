"""Published collections of instructions: from the hub, or from a file of their own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.datasets import TextDatasets
from peftlab.tasks.text.tables import Tables


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Instructions(TextSource):
    """One collection. It brings no splits: validation and test are cut from it."""

    hub: ClassVar[str]  #: its id there
    known_columns: ClassVar[Mapping[str, str]]  #: instruction, input, response -> what the collection calls them

    path: str | None = None  #: file (or folder with one file a split) with the same columns, in place of the hub
    revision: str | None = None  #: commit, tag or branch on the hub

    def fingerprint(self, cache: Path | None = None) -> str:
        return hashlib.sha256(f"{self.name} 1 {self._source().fingerprint(cache)}".encode()).hexdigest()

    def read(self) -> Rows:
        return dataclasses.replace(self._source().read(), columns=self.known_columns)

    def _source(self) -> TextSource:
        return Tables(path=self.path) if self.path else TextDatasets(id=self.hub, revision=self.revision)
