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
        return join(parts, names, where=self.path, notes=(*_level(splits, names), *_others(splits)))

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


def _level(splits: dict[str, Path], names: list[str]) -> list[str]:
    """A note where the folder named may lie above the one that was meant: what it holds looks like a folder of classes itself.

    Raises:
        DataError: one class only, whose folder holds several folders of images.
    """
    (root, *others) = splits.values()
    if others or not names:
        return []
    if len(names) == 1:
        raise DataError(f"holds one class only, {names[0]!r}", where=str(root), remedy=_deeper(root / names[0]))
    inner = [_classes_in(root / name) for name in names]
    if len(inner[0]) < 2 or any(classes != inner[0] for classes in inner):
        return []
    listed, shown = ", ".join(names[:5]), ", ".join(inner[0][:5])
    return [
        f"{root}: the classes are {listed}, and each of these folders holds the same folders ({shown}); "
        f"if those are the classes, name {root / names[0]}, or call the folders train and test"
    ]


def _deeper(folder: Path) -> str:
    """A remedy: the first folder from here on that holds several folders of images."""
    while len(inner := _classes_in(folder)) == 1:
        folder /= inner[0]
    return (
        f"name {folder} if its folders ({', '.join(inner[:5])}) are the classes" if inner else "give it a folder for each class"
    )


def _classes_in(folder: Path) -> list[str]:
    """Folders of images right below a folder that holds no image itself."""
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
        return []
    return [inner.name for inner in folders_in(folder) if next(images_below(inner), None)]


def _others(splits: dict[str, Path]) -> list[str]:
    files = (p for folder in splits.values() for c in folders_in(folder) for p in visible_files(c))
    others = [p for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]
    return [f"{len(others)} files without an image suffix were left out (first: {others[0]})"] if others else []
