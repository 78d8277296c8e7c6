"""Texts of the Hugging Face hub, and folders that its ``datasets`` library wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from peftlab.errors import DataError, OptionError, nearest
from peftlab.tasks.data._files import hash_files
from peftlab.tasks.data._library import hub_builder, quiet, typed
from peftlab.tasks.data.contract import ROLES, Role
from peftlab.tasks.data.datasets import HUB_ID, SAVED
from peftlab.tasks.text.contract import RowPart, Rows, TextSource, gather


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextDatasets(TextSource):
    """A hub id (``owner/name``), or a local folder that ``save_to_disk`` wrote.

    Class labels become their names. A split other than train whose labels are all withheld (-1) is left out. No code of a data
    set is ever run. A hub data set is identified by the commit that was read.
    """

    name: ClassVar[str] = "datasets"
    priority: ClassVar[int] = 15

    id: str | None = None  #: on the hub
    path: str | None = None  #: folder, relative to the current directory
    config: str | None = None  #: configuration (subset) of a hub data set
    revision: str | None = None  #: commit, tag or branch of a hub data set
    train: str | None = None  #: what the data call these splits; default: any usual name
    validation: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.path is None):
            raise OptionError("give exactly one of id, path", where="id", remedy="{name: datasets, id: owner/name}")
        if self.path is not None and (self.config or self.revision):
            raise OptionError("a folder has no config or revision", where="path", remedy="remove them")

    @classmethod
    def accepts(cls, text: str) -> bool:
        path = Path(text).expanduser()
        if path.is_dir():
            return any((path / name).is_file() for name in SAVED)
        return bool(HUB_ID.fullmatch(text)) and not path.exists() and not path.parent.is_dir()

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text) if Path(text).expanduser().exists() else cls(id=text)

    def fingerprint(self, cache: Path | None = None) -> str:
        if self.path is None:
            content = hub_builder(self.id or "", self.config, self.revision).hash
        else:
            root = Path(self.path).expanduser()
            found = (path for path in root.rglob("*") if path.suffix == ".arrow" or path.name == "dataset_info.json")
            content = hash_files({path.relative_to(root).as_posix(): path for path in found}, cache)
        chosen = [self.id, self.config, self.train, self.validation, self.test]
        return hashlib.sha256(f"text datasets 1 {json.dumps(chosen)} {content}".encode()).hexdigest()

    def read(self) -> Rows:
        notes: list[str] = []
        parts = []
        for split, table in self._splits(self._tables()).items():
            part = RowPart(split=split, columns=_columns(table), where=lambda i, split=split: f"{self._where} {split} row {i}")
            withheld = [name for name, values in part.columns.items() if _is_label(table, name) and set(values) == {None}]
            if withheld and ROLES[split] != "train":
                notes.append(f"the data's {split!r} split has no labels and is left out")
            else:
                parts.append(part)
        return gather(parts, where=self._where, notes=notes)

    @property
    def _where(self) -> str:
        return " ".join(filter(None, (self.id or self.path, self.config)))

    def _tables(self) -> dict[str, Any]:
        import datasets

        if self.path is None:
            builder = hub_builder(self.id or "", self.config, self.revision)
            with quiet(), typed(self._where):
                builder.download_and_prepare()
                found = builder.as_dataset()
        else:
            with quiet(), typed(self._where):
                found = datasets.load_from_disk(str(Path(self.path).expanduser()))
        return {str(split): table for split, table in found.items()} if isinstance(found, Mapping) else {"train": found}

    def _splits(self, tables: dict[str, Any]) -> dict[str, Any]:
        """Usual split name -> table: those named here, then what the data call by a usual name."""
        roles: tuple[Role, ...] = ("train", "validation", "test")
        named = {role: getattr(self, role) for role in roles if getattr(self, role) is not None}
        for role, split in named.items():
            if split not in tables:
                raise DataError(f"no split {split!r}", where=f"{self._where} {role}", remedy=nearest(split, tables))
        usual = {s: t for s, t in tables.items() if ROLES.get(s) not in (None, *named) and s not in named.values()}
        return {role: tables[split] for role, split in named.items()} | usual


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
