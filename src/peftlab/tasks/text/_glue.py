"""The tasks of GLUE: from the hub, or from a folder with the files as GLUE has them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from peftlab.tasks.data.contract import ROLES
from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.datasets import TextDatasets
from peftlab.tasks.text.tables import Tables

HUB = "nyu-mll/glue"
CITATION = """@inproceedings{wang2019glue,
  author = {Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  title = {{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Glue(TextSource):
    """One task of GLUE. Its validation split serves as test, as in what others report: most test labels are not public.

    (Those of MRPC are, and on the hub; the two splits are not the same examples.)
    """

    hub_columns: ClassVar[Mapping[str, str | tuple[str, ...]]]  #: text, label, label_names, positive; as the hub has them
    file_columns: ClassVar[Mapping[str, str | tuple[str, ...]]]  #: the same in GLUE's own files

    path: str | None = None  #: folder with train.tsv and dev.tsv, in place of the hub
    revision: str | None = None  #: commit, tag or branch on the hub

    def fingerprint(self, cache: Path | None = None) -> str:
        return hashlib.sha256(f"{self.name} 1 {self._source().fingerprint(cache)}".encode()).hexdigest()

    def read(self) -> Rows:
        rows = dataclasses.replace(self._source().read(), columns=self.file_columns if self.path else self.hub_columns)
        there = [part.split for part in rows.parts if not self.path and ROLES[part.split] == "test"]
        return rows.without({split: f"the data's {split!r} split is left out: GLUE is reported on validation" for split in there})

    def _source(self) -> TextSource:
        if not self.path:
            return TextDatasets(id=HUB, config=self.name, revision=self.revision)
        both = all((Path(self.path).expanduser() / name).is_file() for name in ("train.tsv", "dev.tsv"))
        # beside them GLUE has a test.tsv without labels
        return Tables(path=self.path, train="train.tsv", validation="dev.tsv") if both else Tables(path=self.path)
