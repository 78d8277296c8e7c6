"""Plain text: files as they are."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar, Self

from peftlab.errors import DataError, OptionError
from peftlab.tasks.data._files import hash_files
from peftlab.tasks.data.contract import ROLES, Role
from peftlab.tasks.text.contract import RowPart, Rows, TextSource, gather
from peftlab.tasks.text.tables import read_text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles(TextSource):
    """A ``.txt`` file, or a folder with one a split (``train.txt``, ``valid.txt``, ``test.txt``), in UTF-8.

    A file is one text, unless ``separator`` parts it into several.
    """

    name: ClassVar[str] = "text-files"
    priority: ClassVar[int] = 11

    path: str  #: file or folder, relative to the current directory
    separator: str | None = None  #: what stands between two texts of a file, e.g. <|endoftext|>; spaces and newlines around it go
    train: str | None = None  #: file in the folder; default: the one called train; once one is named, only those are read
    validation: str | None = None  #: default: validation, valid, val, dev
    test: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and not self.separator.strip():
            raise OptionError("blank space alone separates nothing", where="separator", remedy="name a word, or leave it out")
        if Path(self.path).suffix == ".txt" and (self.train or self.validation or self.test):
            raise OptionError("one file has no splits to name", where="path", remedy="name the folder, or leave train, ... out")

    @classmethod
    def accepts(cls, text: str) -> bool:
        path = Path(text).expanduser()
        if path.is_file():
            return path.suffix == ".txt"
        return path.is_dir() and any(file.suffix == ".txt" and file.stem in ROLES for file in path.iterdir())

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text)

    def fingerprint(self, cache: Path | None = None) -> str:
        content = hash_files({f"{role}.txt": path for role, (_, path) in self._files().items()}, cache)
        return hashlib.sha256(f"text files 1 {self.separator!r} {content}".encode()).hexdigest()

    def read(self) -> Rows:
        return gather([self._part(split, path) for split, path in self._files().values()], where=self.path)

    def _part(self, split: str, path: Path) -> RowPart:
        text = read_text(path)
        if not text.strip():
            raise DataError("is empty", where=str(path), remedy="fill it, or name another file")
        texts = [text]
        if self.separator is not None:
            texts = [part for found in text.split(self.separator) if (part := found.strip())]
        return RowPart(split=split, columns={"text": texts}, where=lambda i: f"{path.name} text {i + 1}", header=str(path))

    def _files(self) -> dict[Role, tuple[str, Path]]:
        """Role -> what the data call it, and its file.

        Raises:
            DataError: the path, or a file named, is not there; two files of one split; none to train on.
        """
        root = Path(self.path).expanduser()
        if root.is_file():
            return {"train": ("train", root)}
        if not root.is_dir():
            raise DataError("no such file or folder", where=self.path, remedy="check the path; it is relative to where you are")
        roles: tuple[Role, ...] = ("train", "validation", "test")
        named = {role: getattr(self, role) for role in roles if getattr(self, role) is not None}
        found: dict[Role, tuple[str, Path]] = {}
        for role in roles:
            if named:
                usual = [root / named[role]] if role in named else []
            else:
                usual = [file for file in sorted(root.glob("*.txt")) if ROLES.get(file.stem) == role]
            if len(usual) > 1:
                names = ", ".join(file.name for file in usual)
                raise DataError(f"several files for {role}: {names}", where=self.path, remedy=f"name one with `{role}`")
            if usual:
                if not usual[0].is_file():
                    raise DataError("no such file", where=str(usual[0]), remedy=f"correct `{role}`")
                found[role] = (role if named else usual[0].stem, usual[0])
        if "train" not in found:
            there = ", ".join(file.name for file in sorted(root.glob("*.txt"))) or "no .txt file"
            raise DataError(f"nothing to train on; there is {there}", where=self.path, remedy="name a file with `train`")
        return found
