"""What tasks share whose data come from one source and are cut into train, validation and test."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

import numpy as np

from peftlab.tasks._splits import SplitOptions
from peftlab.tasks.contract import Task
from peftlab.tasks.data._source import Source


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SplitTask(Task):
    """Data from a source, cut into splits.

    Sizes are numbers of examples: subsets fixed by the data, the same for every seed. Only the cut between train and validation
    follows the seed, and not even that where the data bring a validation split of their own (unless ``validation`` asks for a
    share, which then is cut from both together).
    """

    data: str | dict[str, Any]  #: a source, a folder or file, a hub id, or {name: source, option: value}
    validation: float | None = None  #: share of the training examples; default: the data's own validation split, else 0.1
    test: float | None = None  #: share of all examples, for data without a test split (default 0.2)
    train_size: int | None = None  #: examples trained on (validation comes on top)
    validation_size: int | None = None
    test_size: int | None = None
    folds: int | None = None  #: k-fold cross-validation over all labelled examples: test is fold 0 .. k-1

    def __post_init__(self) -> None:
        self.split_options()
        if not isinstance(self.data, str):
            self.source()

    @abstractmethod
    def source(self) -> Source:
        """The configured source of the data."""

    def split_options(self) -> SplitOptions:
        return SplitOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(SplitOptions)})

    def options(self) -> dict[str, Any]:
        """As for every component; ``data: digits`` and ``data: {name: digits}`` are one task and give one run id."""
        return {**Task.options(self), "data": self.source().spec()}

    def fingerprint(self) -> str:
        return self.source().fingerprint()


def places(used: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Where examples lie among those that any split uses, int64 [B].

    Args:
        used: sorted indices, int64 [N].
        indices: int64 [B].

    Raises:
        IndexError: one that no split has.
    """
    found = np.searchsorted(used, indices)
    if len(indices) and (found.max() >= len(used) or (used[found] != indices).any()):
        raise IndexError("an index that is in no split of this task")
    return found
