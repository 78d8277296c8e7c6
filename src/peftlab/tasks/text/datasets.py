"""Texts of the Hugging Face hub, and folders that its ``datasets`` library wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from peftlab.tasks.data._files import hash_files
from peftlab.tasks.data._library import LibraryData
from peftlab.tasks.data.contract import ROLES
from peftlab.tasks.text.contract import RowPart, Rows, TextSource, gather, left_out_note

_FILES = frozenset({".arrow", ".parquet", ".csv", ".tsv", ".json", ".jsonl", ".txt"})  #: that decide what is read


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextDatasets(LibraryData, TextSource):
    """A hub id (``owner/name``), or a local folder that ``save_to_disk`` wrote; another that the library reads where it is named.

    Class labels become their names. A split other than train whose class labels are all withheld (-1) is left out; numbers that
    are withheld are left out by the task, which knows the column of its targets.
    """

    name: ClassVar[str] = "datasets"

    def fingerprint(self, cache: Path | None = None) -> str:
        if self.path is None:
            content = self.builder().hash
        else:
            root = self.folder()
            found = (
                path for path in root.rglob("*") if path.suffix in _FILES and path.name != "state.json"
            )  # a random name in it
            content = hash_files({path.relative_to(root).as_posix(): path for path in found}, cache)
        chosen = [self.id, self.config, self.train, self.validation, self.test]
        return hashlib.sha256(f"text datasets 1 {json.dumps(chosen)} {content}".encode()).hexdigest()

    def read(self) -> Rows:
        notes: list[str] = []
        parts = []
        for split, table in self.tables().items():
            header = f"{self.where} {split}"
            part = RowPart(split=split, columns=_columns(table), where=lambda i, of=header: f"{of} row {i}", header=header)
            withheld = [name for name, values in part.columns.items() if _is_label(table, name) and set(values) == {None}]
            if withheld and ROLES[split] != "train":
                notes.append(left_out_note(split))
            else:
                parts.append(part)
        return gather(parts, where=self.where, notes=notes)


def _is_label(table: Any, name: str) -> bool:
    return type(table.features[name]).__name__ == "ClassLabel"


def _columns(table: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        values = list(table[name])
        if _is_label(table, name):
            names = table.features[name].names
            values = [names[value] if value is not None and value >= 0 else None for value in values]
        columns[name] = values
    return columns
