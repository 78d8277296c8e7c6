"""Folders of image files, one folder a class."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar, Self

from peftlab.errors import DataError, nearest
from peftlab.tasks.data._files import IMAGE_SUFFIXES, folders_in, hash_files, image_part, images_below, visible_files
from peftlab.tasks.data.contract import ROLES, DataSource, Examples, Part, join
from peftlab.tasks.data.resolve import missing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder(DataSource):
    """``root/train/<class>/*.jpg`` with ``root/test`` or ``root/val`` beside it, or ``root/<class>/*.jpg`` (test is split off).

    Classes are numbered in the order of their folders' names. Folders below a class folder belong to it; hidden files are left
    out, and files that are no images by their suffix are counted in a note.
    """

    name: ClassVar[str] = "image-folder"
    priority: ClassVar[int] = 20

    path: str  #: folder, relative to the current directory

    @classmethod
    def accepts(cls, text: str) -> bool:
        root = Path(text).expanduser()
        return root.is_dir() and any(next(images_below(folder), None) for folder in folders_in(root))

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text)

    def fingerprint(self, cache: Path | None = None) -> str:
        root = Path(self.path).expanduser()
        files = {path.relative_to(root).as_posix(): path for folder in self._splits().values() for path in images_below(folder)}
        return hashlib.sha256(f"image-folder 1 {hash_files(files, cache)}".encode()).hexdigest()

    def read(self) -> Examples:
        splits = self._splits()
        files = {split: {c.name: sorted(images_below(c)) for c in folders_in(folder)} for split, folder in splits.items()}
        train = next((classes for split, classes in files.items() if ROLES[split] == "train"), {})
        names = [name for name, images in train.items() if images]
        for split, classes in files.items():
            for name, images in classes.items():
                if images and name not in names:
                    raise DataError(
                        f"class folder {name!r} of {split!r} is not in train",
                        where=str(splits[split] / name),
                        remedy=f"{nearest(name, names)} Every class needs training examples",
                    )
        parts = [_part(split, classes, names) for split, classes in files.items()]
        return join(parts, names, where=self.path, notes=_others(splits))

    def _splits(self) -> dict[str, Path]:
        """Split -> its folder of class folders. ``train`` is only a split if every folder beside it is one, too."""
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise missing(self.path)
        folders = {folder.name: folder for folder in folders_in(root)}
        if any(ROLES.get(name) == "train" for name in folders) and set(folders) <= set(ROLES):
            return folders
        if not any(next(images_below(folder), None) for folder in folders.values()):
            raise missing(self.path)
        return {"train": root}


def _part(split: str, classes: dict[str, list[Path]], names: list[str]) -> Part:
    number = {name: label for label, name in enumerate(names)}
    files = [(path, number[name]) for name, paths in classes.items() for path in paths]
    return image_part(split, files)


def _others(splits: dict[str, Path]) -> list[str]:
    files = (p for folder in splits.values() for c in folders_in(folder) for p in visible_files(c))
    others = [p for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]
    return [f"{len(others)} files without an image suffix were left out (first: {others[0]})"] if others else []
