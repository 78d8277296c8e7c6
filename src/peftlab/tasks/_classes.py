"""What is known about a task whose examples have one class each."""

from __future__ import annotations

import numpy as np

from peftlab.errors import DataError
from peftlab.tasks._metrics import chance_levels, class_metrics, majority_levels
from peftlab.tasks._splits import Splitter, some
from peftlab.tasks.contract import TaskInfo


def describe(splitter: Splitter, notes: tuple[str, ...], *, positive: int | None = None) -> TaskInfo:
    """Sizes, levels and warnings; every fold is tried. ``positive``: the class whose F1 is a metric.

    Raises:
        DataError: an empty split, a class without training examples.
        OptionError: options that leave a class without examples.
    """
    names, folds = splitter.label_names, splitter.options.folds or 1
    warnings: list[str] = []
    if len(names) < 2:
        raise DataError(f"{len(names)} class is nothing to tell apart", where="data", remedy="two classes or more")
    for fold in range(folds):
        splits = splitter.splits(0, fold)
        for split in ("train", "validation", "test"):
            counts = np.bincount(splitter.labels[splits[split]], minlength=len(names))
            prefix = f"fold {fold}: " if folds > 1 else ""
            if not counts.sum():
                raise DataError(f"{prefix}the {split} split is empty", where="data", remedy="give it examples")
            absent = [names[label] for label in np.flatnonzero(counts == 0)]
            if absent and split == "train":
                raise DataError(
                    f"{prefix}{some(absent, 'class has', 'classes have')} no training example",
                    where="data",
                    remedy="add examples, remove the class, or raise train_size",
                )
            if absent:
                warnings.append(f"{prefix}{some(absent, 'class has', 'classes have')} no {split} example")
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
        warnings=tuple(warnings),
        notes=notes,
        folds=folds,
    )
