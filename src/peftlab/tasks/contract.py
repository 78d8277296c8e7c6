"""What a task is: data, loss and metrics. The training loop knows tasks only through this file.

Shape suffixes: B examples in a batch, K classes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from peftlab.registry import Component

#: kinds of heads (not tasks: two tasks may share one)
Head = Literal["image-classification", "sequence-classification", "question-answering", "causal-lm"]

_WORDS = {"train": "to train on", "validation": "to validate", "test": "to test"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """What is known about a task once its data have been read."""

    outputs: int  #: size of the head
    label_names: tuple[str, ...]  #: of the outputs: of classes where there are two or more; one is a number that is predicted
    #: train, validation, test -> examples, as ``splits`` gives them (with folds: fold 0); empty if a tokenizer is needed to know
    sizes: Mapping[str, int]
    higher_is_better: Mapping[str, bool]  #: metric -> direction
    primary_metric: str
    chance: Mapping[str, float]  #: metric -> level of uniform guessing
    majority: Mapping[str, float]  #: metric -> level of always giving the most frequent class; of numbers, their mean
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  #: how the data were read, nothing wrong: e.g. ``val`` serves as test
    folds: int = 1
    #: metric -> (smallest, largest value) where that is not (0, 1), nor (0, infinity) of the loss
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def words(self) -> str:
        """Classes and splits, by which a reader sees whether the data were read as meant; empty if nothing is known."""
        names = ", ".join(self.label_names[:10]) + (", ..." if len(self.label_names) > 10 else "")
        classes = f"{len(self.label_names)} classes ({names})" if self.label_names else ""
        splits = ", ".join(f"{self.sizes[role]:,} {word}" for role, word in _WORDS.items() if role in self.sizes)
        cut = f" (the first of {self.folds} folds)" if self.folds > 1 and splits else ""
        return "; ".join(part for part in (classes, splits + cut) if part)


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
        """Item-level arrays, kept in ``predictions.npz``; of a task with classes ``label`` and ``prediction`` among them."""

    def thresholds(self) -> dict[str, float]:
        """What these examples decide for others, e.g. from which score on a question has no answer; most tasks decide nothing.

        Those of the validation that selected the weights go to :meth:`PreparedTask.meter` for test data.
        """
        return {}


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

    def targets(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """What of a batch loss and meter need: all but the inputs of the backbone."""
        batch = self.batch(indices)
        return {name: value for name, value in batch.items() if name not in self.inputs(batch)}

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        """Tokens of each example, int64 [N], where batches should hold examples of similar length; None: any order will do."""
        return None

    def weight(self, indices: np.ndarray) -> float:
        """Number of terms that the mean of :meth:`loss` goes over: what a micro-batch counts within its step."""
        return float(len(indices))

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.task.inputs(batch)

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        return self.task.loss(outputs, batch, label_smoothing)

    @abstractmethod
    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        """A meter; ``thresholds``: those that other examples decided, None: it decides by its own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What a backbone expects of an image.

    Images are resized (shorter side to ``round(image_size / crop)``, given interpolation), centre-cropped to ``image_size``,
    scaled to [0, 1] and normalised: (x - mean) / std, channels RGB.
    """

    image_size: int = 224
    interpolation: str = "bicubic"
    crop: float = 1.0  #: share of the resized shorter side that is kept
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def example(self, draws: torch.Generator) -> dict[str, torch.Tensor]:
        """Two random inputs, to compare models on."""
        return {"pixel_values": torch.randn(2, 3, self.image_size, self.image_size, generator=draws)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextPreprocessing:
    """What a backbone expects of a text."""

    tokenizer: str  #: folder or hub id (``id@revision``) that the tokenizer lies in
    max_length: int  #: positions that the model has, special tokens included
    pad_token: int  #: id that fills shorter texts of a batch up; what it is never matters, attention masks it
    vocabulary: int  #: token ids are below this
    unpackable: str = ""  #: of a causal model: why a row cannot hold several texts, each by itself; empty where it can

    def example(self, draws: torch.Generator) -> dict[str, torch.Tensor]:
        """Two random texts, one shorter than the other, to compare models on."""
        length = min(16, self.max_length)
        mask = torch.ones(2, length, dtype=torch.int64)
        mask[1, length - length // 4 :] = 0
        ids = torch.randint(self.vocabulary, mask.shape, generator=draws)
        return {"input_ids": ids.masked_fill(mask == 0, self.pad_token), "attention_mask": mask}


class Task(Component, ABC):
    """A configured task, as written in a study."""

    input_kind: ClassVar[Literal["image", "text"]]
    head: ClassVar[Head]  #: what the backbone is given on top
    layout: ClassVar[int] = 1  #: raised when the same data become other inputs; what was computed from earlier ones is not reused

    @property
    def augments(self) -> bool:
        """Whether an example looks different every time it is trained on."""
        return False

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the data (bytes or decoded values), hexadecimal. Cheap when repeated: cached by path, size and time."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The columns that a new text of the task needs, those that can be left out last; none of images.

        Raises:
            DataError: the data cannot be read, or do not tell.
        """

    @abstractmethod
    def info(self) -> TaskInfo:
        """Sizes, classes, chance levels. Reads the data (labels at least), so it raises DataError on bad data."""

    def info_for(self, preprocessing: Callable[[], Any], cache: Path) -> TaskInfo:
        """The same once the backbone is known: where its tokenizer decides how many examples there are, their sizes."""
        return self.info()

    @abstractmethod
    def batch_shapes(self, batch: int, preprocessing: Any, info: TaskInfo) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name -> (shape, dtype) of the largest batch of ``batch`` examples, for predictions made without weights.

        ``preprocessing``: a :class:`Preprocessing` or a :class:`TextPreprocessing`, as ``input_kind`` says.
        """

    def fill(self, batch: int, preprocessing: Any) -> float:
        """Size of an average batch as a share of the largest that :meth:`batch_shapes` gives; 1 where examples have one size."""
        return 1.0

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Mean loss over the batch, a scalar with gradient. ``outputs``: what ``Backbone.outputs`` returned ([B, K] logits)."""

    @abstractmethod
    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The part of a batch that the backbone takes as keyword arguments."""

    @abstractmethod
    def prepare(self, preprocessing: Any, cache: Path) -> PreparedTask:
        """Decode or tokenize once, cache under ``cache`` (content-addressed, safe when several processes do it at once)."""
