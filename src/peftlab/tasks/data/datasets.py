"""Data sets of the Hugging Face hub, and folders in the forms its ``datasets`` library knows."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peftlab.errors import DataError, nearest
from peftlab.tasks.data._files import IMAGE_SUFFIXES, hash_files
from peftlab.tasks.data._library import LibraryData
from peftlab.tasks.data.contract import ROLES, DataSource, Examples, Part, join, plain_names

TABLES = frozenset({".parquet", ".arrow"})
LISTS = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})  #: what makes a folder an ``imagefolder`` with columns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Datasets(LibraryData, DataSource):
    """A hub id (``owner/name``) or a local folder: ``save_to_disk``, Parquet or Arrow files, ``imagefolder`` with metadata.

    The image column is the one of type Image, the label column the one of type ClassLabel, unless named here. Labels may be class
    labels, integers or strings (numbered in sorted order).
    """

    name: ClassVar[str] = "datasets"

    image: str | None = None  #: column
    label: str | None = None  #: column

    @classmethod
    def accepts_folder(cls, folder: Path) -> bool:
        if LibraryData.accepts_folder(folder) or any((folder / name).is_file() for name in LISTS):
            return True
        return any(path.suffix in TABLES for child in (folder, folder / "data") if child.is_dir() for path in child.iterdir())

    def fingerprint(self, cache: Path | None = None) -> str:
        if self.path is None:
            content = self.builder().hash
        else:
            root = self.folder()
            files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if _is_data(path)}
            content = hash_files(files, cache)
        chosen = [self.id, self.config, self.image, self.label, self.train, self.validation, self.test]
        return hashlib.sha256(f"datasets 1 {json.dumps(chosen)} {content}".encode()).hexdigest()

    def read(self) -> Examples:
        tables = self.tables()
        columns = next(iter(tables.values())).features
        image, label = self._column(columns, "image", "Image"), self._column(columns, "label", "ClassLabel")
        for split, table in tables.items():
            for column in (image, label):
                if column not in table.column_names:
                    raise self._no_column(column, split, table.column_names)
        raw = {split: _label_column(table, label) for split, table in tables.items()}
        names, labels = _numbered(getattr(columns[label], "names", None), raw, where=f"{self.where} column {label!r}")
        notes = []
        for split in [
            split for split in labels if ROLES[split] != "train" and len(labels[split]) and (labels[split] == -1).all()
        ]:
            del labels[split]
            notes.append(f"the data's {split!r} split has no labels and is left out")
        parts = [_part(split, labels[split], tables[split], image, self.where) for split in labels]
        return join(parts, names, where=self.where, notes=notes)

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
        raise DataError(what, where=self.where, remedy=f"set {role}: to one of {', '.join(fitting or features)}")

    def _no_column(self, column: str, where: str, known: Any) -> DataError:
        return DataError(f"no column {column!r}", where=f"{self.where} {where}", remedy=nearest(column, known))


def _label_column(table: Any, column: str) -> np.ndarray:
    """One column, without decoding the images beside it."""
    return np.asarray(table.select_columns([column]).with_format("numpy")[:][column])


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


def _regular(path: str) -> Path:
    """A pipe or device that data name as an image would be waited for without end."""
    if not Path(path).is_file():
        raise FileNotFoundError(path)
    return Path(path)


def _part(split: str, labels: np.ndarray, table: Any, column: str, where: str) -> Part:
    import datasets

    if type(table.features[column]).__name__ == "Image":
        table = table.cast_column(column, datasets.Image(decode=False))

    def decode(i: int) -> Any:
        from PIL import Image

        cell = table[i][column]
        if isinstance(cell, Mapping):
            return Image.open(io.BytesIO(cell["bytes"]) if cell.get("bytes") else _regular(cell["path"]))
        return Image.open(io.BytesIO(cell)) if isinstance(cell, bytes) else np.asarray(cell, dtype=np.uint8)

    return Part(split=split, labels=labels, decode=decode, where=lambda i: f"{where} {split} row {i}")
