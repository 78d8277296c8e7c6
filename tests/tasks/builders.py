"""Small real data sets on disk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "images"


def pixels(count: int, size: int = 12, seed: int = 0) -> np.ndarray:
    """Noise, uint8 [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def balanced(classes: int, each: int) -> np.ndarray:
    return np.tile(np.arange(classes, dtype=np.int64), each)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_npz_folder(root: Path, *, classes: int = 3, train: int = 10, test: int = 4, held_out: str = "test") -> Path:
    """``train.npz`` and ``test.npz``, ``train`` and ``test`` images of each class."""
    root.mkdir(parents=True, exist_ok=True)
    names = np.array([f"class {label}" for label in range(classes)])
    for seed, (split, each) in enumerate((("train", train), (held_out, test))):
        labels = balanced(classes, each)
        np.savez(root / f"{split}.npz", images=pixels(len(labels), seed=seed), labels=labels, label_names=names)
    return root


def write_jpeg_npz(path: Path, *, classes: int = 3, each: int = 10, size: int = 16, seed: int = 0) -> Path:
    """Encoded images in one buffer."""
    labels = balanced(classes, each)
    files = [encoded(image, "JPEG") for image in pixels(len(labels), size, seed)]
    offsets = np.concatenate([[0], np.cumsum([len(file) for file in files])]).astype(np.int64)
    np.savez(path, jpeg=np.frombuffer(b"".join(files), dtype=np.uint8), offsets=offsets, labels=labels)
    return path


def write_class_folders(root: Path, *, classes: int = 3, each: int = 6, seed: int = 0) -> Path:
    """``root/<class>/<i>.png``."""
    images = iter(pixels(classes * each, seed=seed))
    for label in range(classes):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True)
        for number in range(each):
            (folder / f"{number}.png").write_bytes(encoded(next(images)))
    return root
