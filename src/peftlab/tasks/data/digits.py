"""Handwritten digits that come with scikit-learn: 1,797 images, no download."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
from functools import cache as once
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftlab.errors import DataError
from peftlab.tasks.data._stratification import stratified_cut
from peftlab.tasks.data.contract import DataSource, Examples, Part, join

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Digits(DataSource):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, 10 classes; fixed stratified split 1,079 / 359 / 359.

    Grey levels 0 .. 16 become round(255 v / 16), the same in red, green and blue.
    """

    name: ClassVar[str] = "digits"
    citation: ClassVar[str] = """@misc{alpaydin1998optical,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}"""

    def fingerprint(self, cache: Path | None = None) -> str:
        images, labels = _digits()
        return hashlib.sha256(b"digits 1" + images.tobytes() + labels.tobytes()).hexdigest()

    def read(self) -> Examples:
        images, labels = _digits()
        parts = []
        for split, rows in _fixed_split(labels).items():
            parts.append(
                Part(
                    split=split,
                    labels=labels[rows],
                    decode=lambda i, rows=rows: images[rows[i]],
                    where=lambda i, rows=rows: f"digits row {rows[i]}",
                )
            )
        return join(parts, [str(digit) for digit in range(10)], where="digits")


@once
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8] and labels int64 [1797], from scikit-learn's file but without its second of imports."""
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise DataError("scikit-learn, which ships the digits, is not installed", where="digits", remedy="install scikit-learn")
    path = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(gzip.decompress(path.read_bytes()).decode("ascii").splitlines(), delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="reinstall scikit-learn") from error
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return images, table[:, -1].astype(np.int64)


def _fixed_split(labels: np.ndarray) -> dict[str, np.ndarray]:
    everything = np.arange(len(labels), dtype=np.int64)
    size = round(SHARES["test"] * len(labels))
    rest, test = stratified_cut(labels, everything, size, seed=0, purpose="test")
    train, validation = stratified_cut(labels, rest, round(SHARES["validation"] * len(labels)), seed=0, purpose="validation")
    return {"train": train, "validation": validation, "test": test}
