"""Data sets of the Hugging Face hub, and folders in the forms its ``datasets`` library knows."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from peftlab.errors import DataError, OptionError, nearest
from peftlab.tasks.data._files import IMAGE_SUFFIXES, hash_files
from peftlab.tasks.data._library import hub_builder, quiet, typed
from peftlab.tasks.data.contract import ROLES, DataSource, Examples, Part, Role, join, plain_names
from peftlab.tasks.data.resolve import missing

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SAVED = ("dataset_dict.json", "state.json")  #: what ``save_to_disk`` leaves
TABLES = frozenset({".parquet", ".arrow"})
LISTS = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})  #: what makes a folder an ``imagefolder`` with columns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Datasets(DataSource):
    """A hub id (``owner/name``) or a local folder: ``save_to_disk``, Parquet or Arrow files, ``imagefolder`` with metadata.

    The image column is the one of type Image, the label column the one of type ClassLabel, unless named here. Labels may be class
    labels, integers or strings (numbered in sorted order). No code of a data set is ever run. A hub data set is identified by the
    commit that was read.
    """

    name: ClassVar[str] = "datasets"
    priority: ClassVar[int] = 15

    id: str | None = None  #: on the hub
    path: str | None = None  #: folder, relative to the current directory
    config: str | None = None  #: configuration (subset) of a hub data set
    revision: str | None = None  #: commit, tag or branch of a hub data set
    image: str | None = None  #: column
    label: str | None = None  #: column
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
            return _is_local(path)
        return bool(HUB_ID.fullmatch(text)) and not path.exists() and not path.parent.is_dir()

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text) if Path(text).expanduser().exists() else cls(id=text)

    def fingerprint(self, cache: Path | None = None) -> str:
        if self.path is None:
            content = self._builder().hash
        else:
            root = self._folder()
            files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if _is_data(path)}
            content = hash_files(files, cache)
        chosen = [self.id, self.config, self.image, self.label, self.train, self.validation, self.test]
        return hashlib.sha256(f"datasets 1 {json.dumps(chosen)} {content}".encode()).hexdigest()

    def read(self) -> Examples:
        tables = self._tables()
        columns = next(iter(tables.values())).features
        image, label = self._column(columns, "image", "Image"), self._column(columns, "label", "ClassLabel")
        for split, table in tables.items():
            for column in (image, label):
                if column not in table.column_names:
                    raise self._no_column(column, split, table.column_names)
        raw = {split: _label_column(table, label) for split, table in tables.items()}
        names, labels = _numbered(getattr(columns[label], "names", None), raw, where=f"{self._where} column {label!r}")
        notes = []
        for split in [
            split for split in labels if ROLES[split] != "train" and len(labels[split]) and (labels[split] == -1).all()
        ]:
            del labels[split]
            notes.append(f"the data's {split!r} split has no labels and is left out")
        parts = [_part(split, labels[split], tables[split], image, self._where) for split in labels]
        return join(parts, names, where=self._where, notes=notes)

    @property
    def _where(self) -> str:
        return self.id or self.path or ""

    def _folder(self) -> Path:
        root = Path(self.path or "").expanduser()
        if not root.is_dir():
            raise missing(str(self.path))
        return root

    def _builder(self) -> Any:
        return hub_builder(self.id or "", self.config, self.revision)

    def _tables(self) -> dict[str, Any]:
        """Usual split name -> table."""
        import datasets

        if self.path is None:
            builder = self._builder()
            with quiet(), typed(self._where):
                builder.download_and_prepare()
                found = builder.as_dataset()
        else:
            root = self._folder()
            with quiet(), typed(self._where):
                saved = any((root / name).is_file() for name in SAVED)
                found = datasets.load_from_disk(str(root)) if saved else datasets.load_dataset(str(root))
        if not isinstance(found, Mapping):
            found = {"train": found}
        return self._named_splits(found)

    def _named_splits(self, found: Mapping[Any, Any]) -> dict[str, Any]:
        splits = {str(split): table for split, table in found.items()}
        chosen: dict[str, Any] = {}
        roles: tuple[Role, ...] = ("train", "validation", "test")
        given = {role: getattr(self, role) for role in roles}
        for role, split in given.items():
            if split is not None and split not in splits:
                raise DataError(f"no split {split!r}", where=f"{self._where} {role}", remedy=nearest(split, splits))
            if split is not None:
                chosen[role] = splits[split]
        for split, table in splits.items():
            role = ROLES.get(split)
            if role is not None and given[role] is None and split not in given.values():
                chosen[split] = table
        if not any(ROLES[split] == "train" for split in chosen):
            raise DataError("no train split", where=self._where, remedy=f"set train: to one of {', '.join(splits)}")
        return chosen

    def _column(self, features: Mapping[str, Any], role: str, kind: str) -> str:
        named = getattr(self, role)
        if named is not None:
            if named not in features:
                raise self._no_column(named, role, features)
            return named
        fitting = [name for name, feature in features.items() if type(feature).__name__ == kind]
        if len(fitting) == 1:
            return fitting[0]
        if role in features and role in (fitting or [role]):
            return role
        what = f"{len(fitting)} columns of type {kind}" if fitting else f"no column of type {kind}"
        raise DataError(what, where=self._where, remedy=f"set {role}: to one of {', '.join(fitting or features)}")

    def _no_column(self, column: str, where: str, known: Any) -> DataError:
        return DataError(f"no column {column!r}", where=f"{self._where} {where}", remedy=nearest(column, known))


def _label_column(table: Any, column: str) -> np.ndarray:
    """One column, without decoding the images beside it."""
    return np.asarray(table.select_columns([column]).with_format("numpy")[:][column])


def _is_local(folder: Path) -> bool:
    if any((folder / name).is_file() for name in (*SAVED, *LISTS)):
        return True
    return any(path.suffix in TABLES for child in (folder, folder / "data") if child.is_dir() for path in child.iterdir())


def _is_data(path: Path) -> bool:
    """Files that decide labels and pixels; ``state.json`` holds a random fingerprint and does not."""
    return path.is_file() and (
        path.suffix.lower() in TABLES | IMAGE_SUFFIXES or path.name in LISTS or path.name == "dataset_info.json"
    )


def _numbered(names: list[str] | None, raw: Mapping[str, np.ndarray], *, where: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Label names and int64 labels from class labels, integers or strings."""
    columns = list(raw.values())
    if all(np.issubdtype(column.dtype, np.integer) for column in columns):
        return names or plain_names(columns, where=where), {k: v.astype(np.int64) for k, v in raw.items()}
    if all(column.dtype.kind in "UTO" and all(isinstance(value, str) for value in column.tolist()) for column in columns):
        names = sorted({str(value) for column in columns for value in column.tolist()})
        number = {name: label for label, name in enumerate(names)}
        return names, {k: np.array([number[value] for value in v.tolist()], dtype=np.int64) for k, v in raw.items()}
    kinds = ", ".join(sorted({str(column.dtype) for column in columns}))
    raise DataError(f"labels are of type {kinds}", where=where, remedy="class labels, integers or strings without gaps are read")


def _part(split: str, labels: np.ndarray, table: Any, column: str, where: str) -> Part:
    import datasets

    if type(table.features[column]).__name__ == "Image":
        table = table.cast_column(column, datasets.Image(decode=False))

    def decode(i: int) -> Any:
        from PIL import Image

        cell = table[i][column]
        if isinstance(cell, Mapping):
            return Image.open(io.BytesIO(cell["bytes"]) if cell.get("bytes") else cell["path"])
        return Image.open(io.BytesIO(cell)) if isinstance(cell, bytes) else np.asarray(cell, dtype=np.uint8)

    return Part(split=split, labels=labels, decode=decode, where=lambda i: f"{where} {split} row {i}")
