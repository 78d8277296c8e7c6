"""What a task is: data, loss and metrics. The training loop knows tasks only through this file.

Shape suffixes: B examples in a batch, K classes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from peftlab.registry import Component


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """What is known about a task once its data have been read."""

    outputs: int  #: size of the head (number of classes)
    label_names: tuple[str, ...]
    sizes: Mapping[str, int]  #: train, validation, test -> examples, as ``splits`` gives them (with folds: fold 0)
    higher_is_better: Mapping[str, bool]  #: metric -> direction
    primary_metric: str
    chance: Mapping[str, float]  #: metric -> level of uniform guessing
    majority: Mapping[str, float]  #: metric -> level of always giving the most frequent class
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  #: how the data were read, nothing wrong: e.g. ``val`` serves as test
    folds: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Disjoint indices into the task's examples."""

    train: np.ndarray  #: int64
    validation: np.ndarray
    test: np.ndarray

    def __getitem__(self, split: str) -> np.ndarray:
        return getattr(self, split)


class Meter(ABC):
    """Collects outputs over batches, then gives metrics."""

    @abstractmethod
    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None: ...

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Metric -> value over everything seen. Includes ``loss`` and the primary metric."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """JSON-ready breakdown, e.g. accuracy per class; kept in ``evaluation.json``."""

    @abstractmethod
    def predictions(self) -> dict[str, np.ndarray]:
        """Item-level arrays, kept in ``predictions.npz``: at least ``label`` and ``prediction``."""


class PreparedTask(ABC):
    """A task whose data lie ready for one backbone."""

    task: Task
    info: TaskInfo

    @abstractmethod
    def splits(self, seed: int, fold: int = 0) -> Splits:
        """Train, validation and test indices. Test never depends on the seed (unless folds are asked for)."""

    @abstractmethod
    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """One batch on the CPU. ``generator`` is given in training only and drives augmentation."""

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.task.inputs(batch)

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        return self.task.loss(outputs, batch, label_smoothing)

    @abstractmethod
    def meter(self) -> Meter: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What a backbone expects of an input. The default is for text-free unit tests.

    Images are resized (shorter side to ``round(image_size / crop)``, given interpolation), centre-cropped to ``image_size``,
    scaled to [0, 1] and normalised: (x - mean) / std, channels RGB.
    """

    image_size: int = 224
    interpolation: str = "bicubic"
    crop: float = 1.0  #: share of the resized shorter side that is kept
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tokenizer: str | None = None  #: folder or id, for text


class Task(Component, ABC):
    """A configured task, as written in a study."""

    input_kind: ClassVar[str]  #: "image" or "text"

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the data (bytes or decoded values), hexadecimal. Cheap when repeated: cached by path, size and time."""

    @abstractmethod
    def info(self) -> TaskInfo:
        """Sizes, classes, chance levels. Reads the data (labels at least), so it raises DataError on bad data."""

    @abstractmethod
    def batch_shapes(
        self, batch: int, preprocessing: Preprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name -> (shape, dtype) of a typical batch of ``batch`` examples, for predictions made without data."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Mean loss over the batch, a scalar with gradient. ``outputs``: what ``Backbone.outputs`` returned ([B, K] logits)."""

    @abstractmethod
    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The part of a batch that the backbone takes as keyword arguments."""

    @abstractmethod
    def prepare(self, preprocessing: Preprocessing, cache: Path) -> PreparedTask:
        """Decode, resize once, cache under ``cache`` (content-addressed, safe when several processes do it at once)."""
