"""Classification of texts and of pairs of texts: one label each, cross-entropy, accuracy and F1."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from peftlab import mistakes
from peftlab.errors import DataError, OptionError, nearest
from peftlab.tasks._classes import ClassificationTask, describe
from peftlab.tasks._labelled_texts import Examples, LabelledTexts
from peftlab.tasks._metrics import ClassificationMeter
from peftlab.tasks._splits import Splitter
from peftlab.tasks.contract import Meter, TaskInfo
from peftlab.tasks.text.contract import Rows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextClassification(LabelledTexts, ClassificationTask):
    """Which of K classes a text, or a pair of texts, belongs to; on encoders and on causal models (their last token).

    F1 is that of the second of two classes (GLUE's positive one).
    """

    name: ClassVar[str] = "text-classification"
    usual: ClassVar[tuple[str, ...]] = ("label", "labels", "class")
    target_type: ClassVar[torch.dtype] = torch.int64
    flattered: ClassVar[str] = "accuracy"

    label_names: tuple[str, ...] | None = None  #: in the order of the classes; default: the source's, else those found, sorted

    def __post_init__(self) -> None:
        if self.label_names is not None and len(set(self.label_names)) < max(2, len(self.label_names)):
            raise OptionError("two classes or more, each once", where="label_names", remedy="e.g. [negative, positive]")
        LabelledTexts.__post_init__(self)

    def targets(self, rows: Rows, column: str) -> tuple[Sequence[str], np.ndarray]:
        given = rows.columns.get("label_names") if self.label in (None, rows.columns.get("label")) else None
        values = rows.columns.get("label_values")
        names = self.label_names or (tuple(given) if given else None)
        return _numbered(rows, column, names, tuple(values) if values and not self.label_names else None)

    def splitter(self, examples: Examples) -> Splitter:
        return Splitter(
            labels=examples.labels, label_names=examples.label_names, roles=examples.rows.roles, options=self.split_options()
        )

    def described(self, examples: Examples) -> TaskInfo:
        return describe(self.splitter(examples), examples.notes, positive=_positive(examples.label_names))

    def meter(self, info: TaskInfo) -> Meter:
        return ClassificationMeter(info.label_names, positive=_positive(info.label_names))


def _positive(label_names: Sequence[str]) -> int | None:
    """The class whose F1 is a metric."""
    return 1 if len(label_names) == 2 else None


def _numbered(
    rows: Rows, column: str, names: Sequence[str] | None, values: Sequence[str] | None
) -> tuple[Sequence[str], np.ndarray]:
    """Label names, and labels int64 [N]. ``values``: what stands for each name in the data, where that is not the name."""
    raw = rows.column(column)
    bad = next((i for i, value in enumerate(raw) if not isinstance(value, str | int) or value == ""), None)
    if bad is not None:
        what = "no label" if raw[bad] in (None, "") else f"{mistakes.kind(raw[bad])} in place of a label"
        raise DataError(what, where=f"{rows.where(bad)} {column}", remedy="give a string or a whole number, or remove the row")
    written = [str(value) for value in raw]
    distinct = set(written)
    numeric = all(value.isdecimal() for value in distinct)
    if names is None:
        values = names = sorted(distinct, key=int) if numeric else sorted(distinct)
        alike: dict[str, str] = {}
        for value in values:
            if (other := alike.setdefault(value.strip().casefold(), value)) != value:
                what = f"labels {other!r} and {value!r} differ in case or spaces only"
                where = rows.where(written.index(value))
                raise DataError(what, where=where, remedy="write them alike, or list both in label_names")
        if len(distinct) > max(50, len(written) // 4):
            what = f"{len(distinct)} different labels in {len(written)} rows"
            remedy = "this does not look like classes; set label: to another column"
            raise DataError(what, where=f"{rows.source} {column}", remedy=remedy)
    elif values is None or not distinct <= set(values):
        values = [str(i) for i in range(len(names))] if numeric and not distinct <= set(names) else list(names)
    number = {value: i for i, value in enumerate(values)}
    wrong = next((i for i, value in enumerate(written) if value not in number), None)
    if wrong is not None:
        count = sum(value not in number for value in written)
        raise DataError(
            f"label {written[wrong]!r} is none of {', '.join(map(repr, values))} ({count} such rows)",
            where=f"{rows.where(wrong)} {column}",
            remedy=nearest(written[wrong], list(values)),
        )
    return names, np.array([number[value] for value in written], dtype=np.int64)
