"""Labels for new images, from a folder that ``export`` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftlab.api._model_folder import Exported, load_forward
from peftlab.api.answers import Answer, lines, table
from peftlab.errors import DataError
from peftlab.tasks._images import resize_and_crop, to_rgb
from peftlab.tasks._normalise import Normalise
from peftlab.tasks.contract import Preprocessing

BATCH, TOP = 32, 3


def predict(model_folder: str | Path, inputs: Iterable[str | Path]) -> Answer:
    """Label images with what ``export`` wrote, in whatever form, prepared exactly as in training.

    Args:
        model_folder: written by ``export``.
        inputs: image files, and folders that are searched for images.

    Returns:
        Per file its label, confidence (softmax probability) and the three likeliest labels. Files that cannot be decoded are
        named with the reason and make the exit code that of wrong data (3); the others are labelled all the same.

    Raises:
        DataError: an input is not there, or there is no image among them.
        RecordError: no exported model, or a changed one.
        BackboneError: the adapter's backbone is not there.
        MissingExtra: an ONNX model, and onnxruntime is not installed.
    """
    folder = Path(model_folder)
    exported = Exported.read(folder)
    files = _files([inputs] if isinstance(inputs, str | Path) else inputs)
    forward = load_forward(folder, exported)
    found: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    normalise = Normalise(exported.preprocessing)
    for start in range(0, len(files), BATCH):
        names, pixels = _decoded(files[start : start + BATCH], exported.preprocessing, unreadable)
        if names:
            with torch.inference_mode():
                logits = forward(normalise(np.stack(pixels)))
            found += [
                {"file": str(name), **_answer(row, exported.label_names)}
                for name, row in zip(names, logits.double(), strict=True)
            ]
    data = {
        "model": folder,
        "label": exported.config.label,
        "run_id": exported.config.run_id,
        "predictions": found,
        "unreadable": unreadable,
    }
    return Answer(data, lambda: _shown(found, unreadable), exit_code=DataError.exit_code if unreadable else 0)


def _files(inputs: Iterable[str | Path]) -> list[Path]:
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
        raise DataError("there is no such file or folder", where=str(path), remedy="check the path")


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


def _answer(logits: torch.Tensor, label_names: Sequence[str]) -> dict[str, Any]:
    values, places = logits.softmax(0).topk(min(TOP, len(label_names)))
    top = [{"label": label_names[int(k)], "confidence": float(p)} for p, k in zip(values, places, strict=True)]
    return {**top[0], "top": top}


def _shown(found: list[dict[str, Any]], unreadable: list[dict[str, str]]) -> Any:
    def row(entry: dict[str, Any]) -> list[str]:
        others = ", ".join(f"{other['label']} {other['confidence']:.1%}" for other in entry["top"][1:])
        return [entry["file"], entry["label"], f"{entry['confidence']:.1%}", others]

    drawn = table(["file", "label", "confidence", "next"], map(row, found), right=["confidence"]) if found else None
    if not unreadable:
        return lines(drawn, f"{len(found)} images")
    broken = table(["unreadable file", "reason"], ([entry["file"], entry["reason"]] for entry in unreadable))
    return lines(drawn, broken, f"{len(found)} images, {len(unreadable)} unreadable files")
