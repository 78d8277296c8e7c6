"""A well-known data set under its own name: from the hub, or from a local copy in any form that is read here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from peftlab.errors import DataError
from peftlab.tasks.data.contract import DataSource, Examples
from peftlab.tasks.data.datasets import Datasets
from peftlab.tasks.data.resolve import source_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublicImages(DataSource):
    """Base of the named data sets."""

    hub_id: ClassVar[str]
    image_column: ClassVar[str]
    label_column: ClassVar[str]
    classes: ClassVar[int]

    path: str | None = None  #: local copy (npz folder, class folders, ...) instead of the hub
    revision: str | None = None  #: commit on the hub

    def source(self) -> DataSource:
        if self.path is not None:
            return source_of(self.path)
        return Datasets(id=self.hub_id, image=self.image_column, label=self.label_column, revision=self.revision)

    def fingerprint(self, cache: Path | None = None) -> str:
        return self.source().fingerprint(cache)

    def read(self) -> Examples:
        examples = self.source().read()
        if len(examples.label_names) != self.classes:
            raise DataError(
                f"{len(examples.label_names)} classes, but {self.name} has {self.classes}",
                where=self.path or self.hub_id,
                remedy="give the folder of the right data set",
            )
        return examples
