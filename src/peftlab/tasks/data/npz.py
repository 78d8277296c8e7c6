"""NumPy ``.npz`` files: pixel arrays, or JPEG bytes in one buffer. Nothing in them is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import zipfile
from functools import cache as once
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from peftlab.errors import DataError, nearest
from peftlab.tasks.data._files import hash_files
from peftlab.tasks.data.contract import ROLES, DataSource, Examples, Part, join, plain_names
from peftlab.tasks.data.resolve import missing

FORMS = "images (uint8 [N,H,W,3]) or jpeg (uint8) with offsets (int [N+1]), and labels (int [N])"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Npz(DataSource):
    """A ``.npz`` file, or a folder with ``train.npz`` and ``test.npz`` (or ``val.npz``).

    Arrays: ``images`` uint8 [N, H, W, 3] (or [N, H, W], [N, H, W, 1]), or ``jpeg`` uint8 with ``offsets`` int [N + 1] (image i is
    ``jpeg[offsets[i]:offsets[i + 1]]``, any format Pillow reads); ``labels`` int [N], 0 .. K-1; optionally ``label_names`` [K]
    (or ``names`` and ``wnids``). A single file is train; test is split off it.
    """

    name: ClassVar[str] = "npz"
    priority: ClassVar[int] = 10

    path: str  #: file or folder, relative to the current directory
    label: str = "labels"  #: array with the labels; names are taken from ``<singular>_names``

    @classmethod
    def accepts(cls, text: str) -> bool:
        path = Path(text).expanduser()
        return bool(_split_files(path)) if path.is_dir() else path.suffix == ".npz" and path.is_file()

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text)

    def fingerprint(self, cache: Path | None = None) -> str:
        files = {f"{split}.npz": path for split, path in self._files().items()}
        return hashlib.sha256(f"npz 1 {self.label} {hash_files(files, cache)}".encode()).hexdigest()

    def read(self) -> Examples:
        files = self._files()
        labels = {split: _labels(path, self.label) for split, path in files.items()}
        names = self._label_names(files)
        if names is None:
            names = plain_names(list(labels.values()), where=self.path)
        return join([_part(split, path, labels[split]) for split, path in files.items()], names, where=self.path)

    def _files(self) -> dict[str, Path]:
        path = Path(self.path).expanduser()
        files = {"train": path} if path.is_file() else _split_files(path) if path.is_dir() else {}
        if not files:
            raise missing(self.path)
        return files

    def _label_names(self, files: dict[str, Path]) -> list[str] | None:
        own = self.label.removesuffix("s") + "_names"
        found: dict[str, list[str]] = {}
        for path in files.values():
            keys = _keys(path)
            if own in keys:
                found[str(path)] = _strings(path, own)
            elif self.label == "labels" and "names" in keys:
                found[str(path)] = _strings(path, "names")
                if "wnids" in keys and len(set(found[str(path)])) < len(found[str(path)]):  # ImageNet has two "crane"
                    pairs = zip(found[str(path)], _strings(path, "wnids"), strict=False)
                    found[str(path)] = [f"{name} ({wnid})" for name, wnid in pairs]
        if len({tuple(names) for names in found.values()}) > 1:
            raise DataError(
                "the files have different label names", where=", ".join(found), remedy="one list, in one order, for all splits"
            )
        return next(iter(found.values()), None)


def _split_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.npz")) if path.stem in ROLES}


def _part(split: str, path: Path, labels: np.ndarray) -> Part:
    keys = _keys(path)
    if "images" in keys:
        decode = _from_pixels(path, len(labels))
    elif "jpeg" in keys and "offsets" in keys:
        decode = _from_buffer(path, len(labels))
    else:
        raise DataError(f"has no images (arrays: {', '.join(sorted(keys)) or 'none'})", where=str(path), remedy=f"needs {FORMS}")
    return Part(split=split, labels=labels, decode=decode, where=lambda i: f"{path} row {i}")


def _from_pixels(path: Path, count: int) -> Any:
    shape, kind = _header(path, "images")
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not fits or kind != np.uint8 or 0 in shape[1:]:
        raise DataError(
            f"images are {kind} {list(shape)}", where=str(path), remedy="uint8 [N, H, W, 3] (channels last) or [N, H, W] is read"
        )
    if shape[0] != count:
        raise DataError(f"{shape[0]} images but {count} labels", where=str(path), remedy="one label for each image")
    pixels = once(lambda: _array(path, "images"))
    return lambda i: pixels()[i]


def _from_buffer(path: Path, count: int) -> Any:
    offsets = _integers(path, "offsets")
    shape, kind = _header(path, "jpeg")
    if len(shape) != 1 or kind != np.uint8:
        raise DataError(f"jpeg is {kind} {list(shape)}", where=str(path), remedy="one uint8 buffer is read")
    if len(offsets) != count + 1:
        raise DataError(f"{len(offsets)} offsets for {count} labels", where=str(path), remedy=f"{count + 1} offsets are needed")
    bad = np.flatnonzero((offsets[1:] < offsets[:-1]) | (offsets[:-1] < 0) | (offsets[1:] > shape[0]))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"offsets {offsets[row]} .. {offsets[row + 1]} do not lie in order within the {shape[0]} bytes",
            where=f"{path} row {row}",
            remedy="image i is jpeg[offsets[i]:offsets[i + 1]]; write the file again",
        )
    buffer = once(lambda: _array(path, "jpeg"))

    def decode(i: int) -> Any:
        from PIL import Image

        return Image.open(io.BytesIO(buffer()[offsets[i] : offsets[i + 1]].tobytes()))

    return decode


def _labels(path: Path, key: str) -> np.ndarray:
    labels = _integers(path, key)
    if labels.dtype == np.uint64 and labels.max(initial=0) > np.iinfo(np.int64).max:
        raise DataError(f"{key} holds {labels.max()}", where=str(path), remedy="labels count from 0 to the number of classes - 1")
    return labels.astype(np.int64)


def _integers(path: Path, key: str) -> np.ndarray:
    array = _array(path, key)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{key} is {array.dtype} {list(array.shape)}", where=str(path), remedy="a row of integers is needed")
    return array


def _strings(path: Path, key: str) -> list[str]:
    array = _array(path, key)
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(f"{key} is {array.dtype} {list(array.shape)}", where=str(path), remedy="a row of strings is needed")
    return (
        [str(name) for name in array.astype(str)]
        if array.dtype.kind == "U"
        else [name.decode("utf-8", "replace") for name in array]
    )


def _keys(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception as error:  # zipfile raises a dozen types on damaged files
        raise _unreadable(path, error) from error


def _header(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array without reading it."""
    _require(path, key)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(file)
            _check_size(archive.getinfo(f"{key}.npy"), shape, kind, path, key)
            return shape, kind
    except DataError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _check_size(member: zipfile.ZipInfo, shape: tuple[int, ...], kind: np.dtype, path: Path, key: str) -> None:
    """What the header promises must be in the archive, and fit into memory: kilobytes can unpack to terabytes."""
    import psutil

    size, free = math.prod(shape) * kind.itemsize, psutil.virtual_memory().available
    if not kind.hasobject and not 0 <= member.file_size - size <= 1 << 20:
        what = f"{size:,} bytes promised, {member.file_size:,} there"
        raise DataError(f"array {key!r}: {what}", where=str(path), remedy="write it again with numpy.savez_compressed")
    if size > free:
        what = f"array {key!r} needs {size / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free"
        raise DataError(what, where=str(path), remedy="use fewer or smaller images, or JPEG bytes in a buffer")


def _array(path: Path, key: str) -> np.ndarray:
    _header(path, key)  # before anything is made room for
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # as above; Python objects are refused here, too
        raise _unreadable(path, error, key) from error


def _require(path: Path, key: str) -> None:
    keys = _keys(path)
    if key not in keys:
        raise DataError(f"has no array {key!r}", where=str(path), remedy=f"{nearest(key, keys)} Needed: {FORMS}")


def _unreadable(path: Path, error: Exception, key: str = "") -> DataError:
    what = f"array {key!r} " if key else ""
    return DataError(
        f"{what}cannot be read: {error}",
        where=str(path),
        remedy="write it again with numpy.savez_compressed",
    )
