"""What a data source is: labelled images that lie somewhere, read but not yet decoded."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from peftlab.errors import DataError
from peftlab.tasks.data._source import Source

Role = Literal["train", "validation", "test"]

#: what data call their splits -> what a split is for
ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One split as it lies in the data. ``decode`` and ``where`` take the position in this part."""

    split: str  #: what the data call it
    labels: np.ndarray  #: int64 [N]
    decode: Callable[[int], Any]  #: uint8 array [H, W] or [H, W, 3], or a PIL image; raises whatever a decoder raises
    where: Callable[[int], str]  #: file or row, for messages


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """All labelled examples of a source, numbered through its parts in order."""

    labels: np.ndarray  #: int64 [N]
    label_names: tuple[str, ...]
    roles: Mapping[Role, np.ndarray]  #: int64 indices that the data themselves call train, validation, test; train is there
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def _place(self, index: int) -> tuple[Part, int]:
        for part in self.parts:
            if index < len(part.labels):
                return part, index
            index -= len(part.labels)
        raise IndexError(index)

    def decode(self, index: int) -> Any:
        part, position = self._place(index)
        return part.decode(position)

    def where(self, index: int) -> str:
        part, position = self._place(index)
        return part.where(position)


class DataSource(Source):
    """One place labelled images come from."""

    @abstractmethod
    def read(self) -> Examples:
        """Labels and where the images are; decodes nothing.

        Raises:
            DataError: missing, unreadable or contradictory data.
        """


def join(parts: Sequence[Part], label_names: Sequence[str], *, where: str, notes: Sequence[str] = ()) -> Examples:
    """Parts as one numbered whole (train, validation, test), with the role of each part.

    A validation split without a test split serves as test (what ImageNet and its subsets call ``val``); said in a note.

    Raises:
        DataError: no train part, two parts with one role, an empty part, a label outside the classes (row named), two classes of
            one name.
    """
    order, roles, said = arrange([(part.split, len(part.labels)) for part in parts], where=where)
    parts = [parts[i] for i in order]
    for part in parts:
        check_labels(part, label_names)
    if len(set(label_names)) < len(label_names):
        twice = next(name for i, name in enumerate(label_names) if name in label_names[:i])
        raise DataError(f"{twice!r} is the name of two classes", where=where, remedy="give every class a name of its own")
    labels = np.concatenate([part.labels for part in parts]).astype(np.int64)
    return Examples(labels=labels, label_names=tuple(label_names), roles=roles, parts=tuple(parts), notes=(*notes, *said))


def arrange(splits: Sequence[tuple[str, int]], *, where: str) -> tuple[list[int], dict[Role, np.ndarray], list[str]]:
    """What the splits of some data are for.

    Args:
        splits: what the data call each split, and its number of examples.

    Returns:
        The order to number examples in (places in ``splits``), role -> indices int64, and what there is to say about it.

    Raises:
        DataError: no train split, an unknown one, two with one role.
    """
    ranks = ["train", "validation", "test"]
    order = sorted(range(len(splits)), key=lambda i: ranks.index(ROLES[splits[i][0]]) if splits[i][0] in ROLES else len(ranks))
    roles: dict[Role, np.ndarray] = {}
    start = 0
    for split, size in (splits[i] for i in order):
        role = ROLES.get(split)
        if role is None or role in roles:
            raise DataError(
                f"split {split!r} is " + ("unknown" if role is None else f"a second {role} split"),
                where=where,
                remedy="call the splits train, validation (or val, valid, dev) and test",
            )
        roles[role] = np.arange(start, start + size, dtype=np.int64)
        start += size
    if "train" not in roles:
        found = ", ".join(split for split, _ in splits) or "nothing"
        raise DataError(f"no train split (found: {found})", where=where, remedy="add one called train")
    notes = []
    if "validation" in roles and "test" not in roles:
        roles["test"] = roles.pop("validation")
        name = next(split for split, _ in splits if ROLES[split] == "validation")
        notes.append(f"the data's {name!r} split serves as test; validation is split off train")
    return order, roles, notes


def plain_names(columns: Sequence[np.ndarray], *, where: str) -> list[str]:
    """``"0" .. "K-1"`` for labels [N] that have no names.

    Raises:
        DataError: the highest label is not below the number of examples, so classes must be missing.
    """
    highest = max((int(column.max(initial=-1)) for column in columns), default=-1)
    count = sum(len(column) for column in columns)
    if highest >= count > 0:
        raise DataError(
            f"label {highest} with {count} examples: some classes below it have none",
            where=where,
            remedy="number the classes from 0 without gaps, or give label names",
        )
    return [str(label) for label in range(highest + 1)]


def check_labels(part: Part, label_names: Sequence[str]) -> None:
    """Raises DataError if a part is empty or one of its labels is outside 0 .. K-1 (first bad row named, all counted)."""
    if not len(part.labels):
        raise DataError(f"split {part.split!r} has no examples", where=part.split, remedy="remove it or fill it")
    bad = np.flatnonzero((part.labels < 0) | (part.labels >= len(label_names)))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"label {int(part.labels[row])} is outside 0 .. {len(label_names) - 1} ({len(bad)} such labels in {part.split!r})",
            where=part.where(row),
            remedy="labels count from 0 to the number of classes - 1; correct the labels or the label names",
        )
