"""What tasks share whose examples, images or texts, have one class each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from peftlab.errors import DataError
from peftlab.tasks._metrics import chance_levels, class_metrics, majority_levels
from peftlab.tasks._split_task import SplitTask, places
from peftlab.tasks._splits import Splitter
from peftlab.tasks._wording import counted
from peftlab.tasks.contract import PreparedTask, Splits, TaskInfo


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationTask(SplitTask):
    """Cross-entropy over K classes; subsets and cuts keep the shares of the classes."""

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in batch.items() if name != "labels"}

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy of logits [B, K], computed in float32, mean over the batch, in nats."""
        return functional.cross_entropy(outputs.float(), batch["labels"], label_smoothing=label_smoothing)


class PreparedClassification(PreparedTask):
    """Examples whose content lies ready in rows: example ``used[i]`` in row i."""

    def __init__(self, *, task: ClassificationTask, info: TaskInfo, splitter: Splitter, used: np.ndarray) -> None:
        self.task, self.info = task, info
        self.splitter, self.used = splitter, used

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self.splitter.splits(seed, fold)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Where examples lie, int64 [B]. Raises IndexError for one that no split has."""
        return places(self.used, indices)

    def labels(self, indices: np.ndarray) -> torch.Tensor:
        """Classes of examples, int64 [B]."""
        return torch.from_numpy(self.splitter.labels[indices])


def _in_folds(said: str, found: list[int], folds: int) -> str:
    """Once, however many folds it is true of."""
    shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
    return said if folds == 1 else f"fold{'s' if len(found) > 1 else ''} {shown} ({len(found)} of {folds}): {said}"


def describe(splitter: Splitter, notes: tuple[str, ...], *, positive: int | None = None) -> TaskInfo:
    """Sizes, levels and warnings; every fold is tried. ``positive``: the class whose F1 is a metric.

    Raises:
        DataError: an empty split, a class without training examples.
        OptionError: options that leave a class without examples.
    """
    names, folds = splitter.label_names, splitter.options.folds or 1
    warnings: dict[str, list[int]] = {}
    if len(names) < 2:
        raise DataError(f"{len(names)} class is nothing to tell apart", where="task.data", remedy="two classes or more")
    for fold, (prefix, splits) in enumerate(splitter.tried()):
        for split in ("train", "validation", "test"):
            counts = np.bincount(splitter.labels[splits[split]], minlength=len(names))
            absent = [names[label] for label in np.flatnonzero(counts == 0)]
            lack = f"no {'training' if split == 'train' else split} example"
            said = prefix + counted(absent, f"class has {lack}", f"classes have {lack}")
            if absent and split == "train":
                raise DataError(
                    said,
                    where="task.data",
                    remedy="add examples, remove the class, or raise train_size",
                )
            if absent:
                warnings.setdefault(counted(absent, f"class has {lack}", f"classes have {lack}"), []).append(fold)
    splits = splitter.splits(0)
    train, test = (np.bincount(splitter.labels[splits[split]], minlength=len(names)) for split in ("train", "test"))
    return TaskInfo(
        outputs=len(names),
        label_names=names,
        sizes={split: len(splits[split]) for split in ("train", "validation", "test")},
        higher_is_better=class_metrics(len(names), positive=positive),
        primary_metric="accuracy",
        chance=chance_levels(test, positive=positive),
        majority=majority_levels(train, test, positive=positive),
        warnings=tuple(_in_folds(said, found, folds) for said, found in warnings.items()),
        notes=notes,
        folds=folds,
    )
