"""Tiny ImageNet."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar, Self

from peftlab.errors import DataError
from peftlab.tasks.data._files import folders_in, hash_files, image_part, images_below
from peftlab.tasks.data._public import PublicImages
from peftlab.tasks.data.contract import DataSource, Examples, join


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TinyImagenet(PublicImages):
    """Tiny ImageNet: 64 x 64 photographs, 200 classes, 100,000 to train, 10,000 (its val) to test; hub or local copy.

    The published archive, unpacked, is read as it is: ``train/<wnid>/images``, and ``val/images`` with
    ``val/val_annotations.txt``. Its ``test`` has no labels and is left out.
    """

    name: ClassVar[str] = "tiny-imagenet"
    hub_id: ClassVar[str] = "zh-plus/tiny-imagenet"
    image_column: ClassVar[str] = "image"
    label_column: ClassVar[str] = "label"
    classes: ClassVar[int] = 200
    citation: ClassVar[str] = """@techreport{le2015tiny,
  author = {Le, Ya and Yang, Xuan},
  title = {Tiny {ImageNet} Visual Recognition Challenge},
  institution = {Stanford University, CS 231N},
  year = {2015}
}"""

    @classmethod
    def accepts(cls, text: str) -> bool:
        return text == cls.name or _annotations(text).is_file()

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls() if text == cls.name else cls(path=text)

    def source(self) -> DataSource:
        if self.path is not None and _annotations(self.path).is_file():
            return _Published(path=self.path)
        return PublicImages.source(self)


def _annotations(root: str) -> Path:
    return Path(root).expanduser() / "val" / "val_annotations.txt"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Published(DataSource):
    """The archive's own layout. Classes are numbered in the order of their WordNet ids."""

    path: str

    def fingerprint(self, cache: Path | None = None) -> str:
        root = Path(self.path).expanduser()
        files = [*images_below(root / "train"), *images_below(root / "val"), _annotations(self.path)]
        named = {file.relative_to(root).as_posix(): file for file in files}
        return hashlib.sha256(f"tiny-imagenet 1 {hash_files(named, cache)}".encode()).hexdigest()

    def read(self) -> Examples:
        root = Path(self.path).expanduser()
        classes = {folder.name: label for label, folder in enumerate(folders_in(root / "train"))}
        train = [(file, label) for name, label in classes.items() for file in sorted(images_below(root / "train" / name))]
        parts = [image_part("train", train), image_part("val", self._validation(root, classes))]
        notes = ["the archive's 'test' split has no labels and is left out"] if (root / "test").is_dir() else []
        return join(parts, list(classes), where=self.path, notes=notes)

    def _validation(self, root: Path, classes: dict[str, int]) -> list[tuple[Path, int]]:
        """Files and labels, one per line: name, WordNet id, box; separated by tabs."""
        table, found = _annotations(self.path), {}
        try:
            lines = table.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read: {error}", where=str(table), remedy="unpack the archive again") from error
        for number, line in enumerate(lines, 1):
            name, _, rest = line.partition("\t")
            wnid, file = rest.partition("\t")[0], root / "val" / "images" / name
            if wnid not in classes or Path(name).name != name or not file.is_file() or file in found:
                why = f"class {wnid!r} is not in train" if wnid not in classes else f"{name!r} is named twice or not there"
                raise DataError(why, where=f"{table}:{number}", remedy="unpack the archive again")
            found[file] = classes[wnid]
        left = next((file for file in images_below(root / "val") if file not in found), None)
        if left is not None:
            raise DataError(f"{left.name!r} has no line", where=str(table), remedy="unpack the archive again")
        return list(found.items())
