"""A number for a text or a pair of texts: squared error, Pearson's and Spearman's correlation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from peftlab.errors import DataError, OptionError
from peftlab.tasks._correlation import BOUNDS, HIGHER_IS_BETTER, CorrelationMeter, levels
from peftlab.tasks._labelled_texts import Examples, LabelledTexts
from peftlab.tasks._splits import Splitter
from peftlab.tasks.contract import Meter, TaskInfo
from peftlab.tasks.text.contract import Rows

_LARGEST = float(np.finfo(np.float32).max)
_WIDEST = 20.0  #: deviation or mean of the targets from which on an output that starts near zero has a long way to go


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextRegression(LabelledTexts):
    """Which number belongs to a text, or to a pair of texts (similarity, rating, price); on encoders and on causal models.

    Loss: mean over the batch of (output - target)^2, targets as they stand in the data. Pearson's correlation is the metric,
    as of STS-B in GLUE; a constant prediction, whose correlation is not defined, counts as 0.
    """

    name: ClassVar[str] = "text-regression"
    usual: ClassVar[tuple[str, ...]] = ("label", "labels", "score", "target", "value", "rating")
    target_type: ClassVar[torch.dtype] = torch.float32
    flattered: ClassVar[str] = "the correlation"

    def targets(self, rows: Rows, column: str) -> tuple[Sequence[str], np.ndarray]:
        found = []
        for index, value in enumerate(rows.column(column)):
            number = _number(value)
            if number is None:
                what = "no number" if value in (None, "") else f"{value!r} in place of a number"
                where = f"{rows.where(index)} {column}"
                raise DataError(what, where=where, remedy="give a finite number with a decimal point, or remove the row")
            found.append(number)
        return (column,), np.array(found, dtype=np.float32)

    def splitter(self, examples: Examples) -> Splitter:
        return Splitter(
            labels=np.zeros(len(examples.labels), dtype=np.int64),
            label_names=("example",),
            roles=examples.rows.roles,
            options=self.split_options(),
        )

    def described(self, examples: Examples) -> TaskInfo:
        splitter = self.splitter(examples)
        warnings: list[str] = []
        tried = splitter.tried()
        for prefix, splits in tried:
            for split in ("train", "validation", "test"):
                values = examples.labels[splits[split]]
                if len(np.unique(values)) < 2:
                    what = f"{prefix}every {split} target is {values[0]:g}: there is no correlation with that"
                    raise DataError(what, where="data", remedy="give it examples with different targets")
        splits = tried[0][1]
        train = examples.labels[splits.train].astype(np.float64)
        if max(abs(train.mean()), train.std()) > _WIDEST or train.std() < 1 / _WIDEST:
            warnings.append(
                f"targets have a mean of {train.mean():.4g} and a deviation of {train.std():.4g}; an output "
                "starts near 0 and moves by steps of the learning rate, so divide or shift the column until both are around 1"
            )
        chance = levels(train, examples.labels[splits.test])
        return TaskInfo(
            outputs=1,
            label_names=examples.label_names,
            sizes={split: len(splits[split]) for split in ("train", "validation", "test")},
            higher_is_better=HIGHER_IS_BETTER,
            bounds=BOUNDS,
            primary_metric="pearson",
            chance={name: chance[name] for name in ("pearson", "spearman")},
            majority=chance,
            warnings=tuple(warnings),
            notes=examples.notes,
            folds=len(tried),
        )

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Mean squared error of outputs [B, 1], computed in float32.

        Raises:
            OptionError: label smoothing, which is about classes.
        """
        if label_smoothing:
            raise OptionError("numbers have no labels to smooth", where="train.label_smoothing", remedy="remove it")
        return functional.mse_loss(outputs.float().squeeze(-1), batch["labels"])

    def meter(self, info: TaskInfo) -> Meter:
        return CorrelationMeter()


def _number(value: Any) -> float | None:
    """A finite number that float32 holds, from a number or its text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= _LARGEST else None
