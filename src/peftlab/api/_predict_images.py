"""Image files as inputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from peftlab.errors import DataError, absent
from peftlab.tasks._images import resize_and_crop, to_rgb
from peftlab.tasks._normalise import Normalise
from peftlab.tasks.contract import Preprocessing

Batch = tuple[list[str], dict[str, torch.Tensor]]


def image_batches(
    inputs: Iterable[str], preprocessing: Preprocessing, size: int, unreadable: list[dict[str, str]]
) -> Iterator[Batch]:
    """Names and inputs, ``size`` at a time; files that cannot be decoded go to ``unreadable`` with the reason.

    Raises:
        DataError: a file or folder is not there, or there is no image among them.
    """
    files = _files(inputs)
    normalise = Normalise(preprocessing)
    for start in range(0, len(files), size):
        names, pixels = _decoded(files[start : start + size], preprocessing, unreadable)
        if names:
            yield [str(name) for name in names], {"pixel_values": normalise(np.stack(pixels))}


def _files(inputs: Iterable[str]) -> list[Path]:
    """Named files as they are, folders searched for images, in order, each file once."""
    files = list(dict.fromkeys(file for name in inputs for file in _expand(Path(name))))
    if not files:
        raise DataError("there is no image", where="inputs", remedy="name image files, or folders that hold some")
    return files


def _expand(path: Path) -> Iterator[Path]:
    if path.is_dir():
        from PIL import Image

        known = Image.registered_extensions()
        yield from (file for file in sorted(path.rglob("*")) if file.suffix.lower() in known and file.is_file())
    elif path.is_file():
        yield path
    else:
        raise DataError("there is no such file or folder", where=str(path), remedy=absent(path, "check the path"))


def _decoded(
    files: Sequence[Path], preprocessing: Preprocessing, unreadable: list[dict[str, str]]
) -> tuple[list[Path], list[np.ndarray]]:
    from PIL import Image

    names, pixels = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels.append(resize_and_crop(to_rgb(image), preprocessing))
        except MemoryError:
            raise
        except Exception as error:  # decoders of damaged files raise anything
            unreadable.append({"file": str(file), "reason": f"{type(error).__name__}: {error}"})
        else:
            names.append(file)
    return names, pixels
