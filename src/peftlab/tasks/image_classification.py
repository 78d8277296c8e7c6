"""Image classification: one label an image, cross-entropy, top-1 accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from peftlab.errors import OptionError
from peftlab.tasks._augmentation import Augmentation, augment
from peftlab.tasks._classes import ClassificationTask, PreparedClassification, describe
from peftlab.tasks._copies import overlap
from peftlab.tasks._images import LAYOUT, UNREADABLE, PreparedImages, corrupt_note, prepare_images
from peftlab.tasks._metrics import ClassificationMeter
from peftlab.tasks._normalise import Normalise
from peftlab.tasks._splits import Splitter
from peftlab.tasks.contract import Head, Meter, Preprocessing, TaskInfo
from peftlab.tasks.data.contract import DataSource, Examples
from peftlab.tasks.data.resolve import source_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassification(ClassificationTask):
    """Which of K classes an image shows."""

    name: ClassVar[str] = "image-classification"
    input_kind: ClassVar[Literal["image", "text"]] = "image"
    head: ClassVar[Head] = "image-classification"
    layout: ClassVar[int] = LAYOUT

    image_size: int | None = None  #: pixels a side; default: what the backbone was trained with
    crop: float | None = None  #: share of the resized shorter side that is kept; default: the backbone's
    augmentation: Augmentation = "none"
    on_corrupt: Literal["fail", "skip"] = "fail"  #: images that cannot be decoded

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise OptionError(f"{self.image_size} pixels", where="image_size", remedy="1 or more")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise OptionError(f"{self.crop} is no share of the image", where="crop", remedy="above 0, at most 1")
        ClassificationTask.__post_init__(self)

    @property
    def augments(self) -> bool:
        return self.augmentation != "none"

    def source(self) -> DataSource:
        """The configured data source."""
        return source_of(self.data)

    def columns(self) -> list[str]:
        return []

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
        contents = dict(zip(images.used.tolist(), images.digests.tolist(), strict=True))
        copies = overlap(splitter, contents, what="images", how="pixel by pixel", flattered="accuracy")
        found = (corrupt_note(examples, images), copies)
        info = dataclasses.replace(info, warnings=(*info.warnings, *(note for note in found if note)))
        return PreparedImageClassification(
            task=self, info=info, splitter=splitter, images=images, preprocessing=preprocessing, augmentation=self.augmentation
        )

    def batch_shapes(
        self, batch: int, preprocessing: Preprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        size = preprocessing.image_size
        return {"pixel_values": ((batch, 3, size, size), torch.float32), "labels": ((batch,), torch.int64)}

    def _splitter(self, examples: Examples) -> Splitter:
        return Splitter(
            labels=examples.labels, label_names=examples.label_names, roles=examples.roles, options=self.split_options()
        )


class PreparedImageClassification(PreparedClassification):
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
        super().__init__(task=task, info=info, splitter=splitter, used=images.used)
        self._images = images
        self._augmentation: Augmentation = augmentation
        self._normalise = Normalise(preprocessing)

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """``pixel_values`` float32 [B, 3, S, S], ``labels`` int64 [B]."""
        indices = np.asarray(indices, dtype=np.int64)
        pixels = torch.from_numpy(self._images.pixels[self.rows(indices)])
        if generator is not None:
            pixels = augment(pixels, self._augmentation, generator)
        return {"pixel_values": self._normalise(pixels), "labels": self.labels(indices)}

    def targets(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Without reading a pixel."""
        return {"labels": self.labels(np.asarray(indices, dtype=np.int64))}

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return ClassificationMeter(self.info.label_names)
