"""Image classification: one label an image, cross-entropy, top-1 accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn import functional

from peftlab.errors import OptionError
from peftlab.tasks._augmentation import Augmentation, augment
from peftlab.tasks._classes import describe
from peftlab.tasks._images import UNREADABLE, PreparedImages, corrupt_note, prepare_images
from peftlab.tasks._metrics import ClassificationMeter
from peftlab.tasks._normalise import Normalise
from peftlab.tasks._splits import SplitOptions, Splitter
from peftlab.tasks.contract import Head, Meter, PreparedTask, Preprocessing, Splits, Task, TaskInfo
from peftlab.tasks.data.contract import DataSource, Examples
from peftlab.tasks.data.resolve import source_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassification(Task):
    """Which of K classes an image shows.

    Sizes are numbers of examples: stratified subsets fixed by the data, the same for every seed. Only the cut between train and
    validation follows the seed, and not even that where the data bring a validation split of their own (unless ``validation``
    asks for a share, which then is cut from both together).
    """

    name: ClassVar[str] = "image-classification"
    input_kind: ClassVar[Literal["image", "text"]] = "image"
    head: ClassVar[Head] = "image-classification"

    data: str | dict[str, Any]  #: a source (``digits``), a folder or file, a hub id, or {name: source, option: value}
    image_size: int | None = None  #: pixels a side; default: what the backbone was trained with
    crop: float | None = None  #: share of the resized shorter side that is kept; default: the backbone's
    validation: float | None = None  #: share of the training examples; default: the data's own validation split, else 0.1
    test: float | None = None  #: share of all examples, for data without a test split (default 0.2)
    train_size: int | None = None  #: examples trained on (validation comes on top)
    validation_size: int | None = None
    test_size: int | None = None
    folds: int | None = None  #: k-fold cross-validation over all labelled examples: test is fold 0 .. k-1
    augmentation: Augmentation = "none"
    on_corrupt: Literal["fail", "skip"] = "fail"  #: images that cannot be decoded

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise OptionError(f"{self.image_size} pixels", where="image_size", remedy="1 or more")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise OptionError(f"{self.crop} is no share of the image", where="crop", remedy="above 0, at most 1")
        self._split_options()
        if not isinstance(self.data, str):
            self.source()

    def _split_options(self) -> SplitOptions:
        return SplitOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(SplitOptions)})

    def options(self) -> dict[str, Any]:
        """As for every component; ``data: digits`` and ``data: {name: digits}`` are one task and give one run id."""
        return {**Task.options(self), "data": self.source().spec()}

    def source(self) -> DataSource:
        """The configured data source."""
        return source_of(self.data)

    def fingerprint(self) -> str:
        return self.source().fingerprint()

    def info(self) -> TaskInfo:
        examples = self.source().read()
        return describe(self._splitter(examples), examples.notes)

    def prepare(self, preprocessing: Preprocessing, cache: Path) -> PreparedImageClassification:
        """As the contract says.

        Raises:
            OptionError: ``image_size`` set here and another one in ``preprocessing``; sizes or shares that do not work out.
            DataError: bad data, corrupt images.
        """
        if self.image_size is not None and self.image_size != preprocessing.image_size:
            raise OptionError(
                f"the task asks for {self.image_size} pixels, the backbone was set up for {preprocessing.image_size}",
                where="image_size",
                remedy="pass the task's image_size when the backbone is loaded",
            )
        if self.crop is not None:
            preprocessing = dataclasses.replace(preprocessing, crop=self.crop)
        source = self.source()
        examples = source.read()
        used = self._splitter(examples).used()
        images = prepare_images(
            examples, used, preprocessing, source.fingerprint(cache), cache, skip_corrupt=self.on_corrupt == "skip"
        )
        usable = np.zeros(len(examples.labels), dtype=bool)
        usable[used] = images.digests != UNREADABLE
        splitter = dataclasses.replace(self._splitter(examples), usable=usable)
        info = describe(splitter, examples.notes)
        found = (corrupt_note(examples, images), _overlap(splitter, images))
        info = dataclasses.replace(info, warnings=(*info.warnings, *(note for note in found if note)))
        return PreparedImageClassification(
            task=self, info=info, splitter=splitter, images=images, preprocessing=preprocessing, augmentation=self.augmentation
        )

    def batch_shapes(
        self, batch: int, preprocessing: Preprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        size = preprocessing.image_size
        return {"pixel_values": ((batch, 3, size, size), torch.float32), "labels": ((batch,), torch.int64)}

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pixel_values": batch["pixel_values"]}

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy of logits [B, K], computed in float32, mean over the batch, in nats."""
        return functional.cross_entropy(outputs.float(), batch["labels"], label_smoothing=label_smoothing)

    def _splitter(self, examples: Examples) -> Splitter:
        return Splitter(
            labels=examples.labels, label_names=examples.label_names, roles=examples.roles, options=self._split_options()
        )


class PreparedImageClassification(PreparedTask):
    """Images on disk as uint8, normalised batch by batch."""

    def __init__(
        self,
        *,
        task: ImageClassification,
        info: TaskInfo,
        splitter: Splitter,
        images: PreparedImages,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
    ) -> None:
        self.task, self.info = task, info
        self._splitter, self._images = splitter, images
        self._augmentation: Augmentation = augmentation
        self._normalise = Normalise(preprocessing)

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self._splitter.splits(seed, fold)

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """``pixel_values`` float32 [B, 3, S, S], ``labels`` int64 [B]."""
        indices = np.asarray(indices, dtype=np.int64)
        rows = np.searchsorted(self._images.used, indices)
        if len(indices) and (rows.max() >= len(self._images.used) or (self._images.used[rows] != indices).any()):
            raise IndexError("an index that is in no split of this task")
        pixels = torch.from_numpy(self._images.pixels[rows])
        if generator is not None:
            pixels = augment(pixels, self._augmentation, generator)
        return {"pixel_values": self._normalise(pixels), "labels": torch.from_numpy(self._splitter.labels[indices])}

    def meter(self) -> Meter:
        return ClassificationMeter(self.info.label_names)


def _overlap(splitter: Splitter, images: PreparedImages) -> str | None:
    """The sentence about test images that are also among the others, pixel by pixel; with folds: about images that come twice."""

    def digests(indices: np.ndarray) -> np.ndarray:
        return images.digests[np.searchsorted(images.used, indices)]

    if splitter.options.folds:
        everything = images.digests[images.digests != UNREADABLE]
        twice = len(everything) - len(np.unique(everything))
        return f"{twice} images are copies of others, so folds share images" if twice else None
    fixed = splitter.fixed()
    others = fixed.pool if fixed.validation is None else np.concatenate([fixed.pool, fixed.validation])
    shared = int(np.isin(digests(fixed.test), digests(others)).sum())
    if not shared:
        return None
    return f"{shared} of {len(fixed.test)} test images are also in train or validation, pixel by pixel: accuracy is flattered"
