"""What a source of texts is: rows with named columns, in the splits that the data bring."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from peftlab import mistakes
from peftlab.errors import DataError, nearest
from peftlab.tasks.data._source import Source
from peftlab.tasks.data.contract import ROLES, Role, arrange


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """One split as it lies in the data."""

    split: str  #: what the data call it
    columns: Mapping[str, Sequence[Any]]  #: name -> one value a row
    where: Callable[[int], str]  #: position in this part -> file and line, for messages
    header: str  #: where its columns are named, for messages: the file, and its line where one line names them

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def lacks(self, name: str) -> DataError:
        """The error for a column that is not there; names what is nearest."""
        return DataError(f"there is no column {name!r}", where=self.header, remedy=nearest(name, list(self.columns)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """All rows of a source, numbered through its parts in order: train, validation, test."""

    source: str  #: the file, folder or id they come from, for messages about all of them
    parts: tuple[RowPart, ...]
    roles: Mapping[Role, np.ndarray]  #: int64 indices that the data themselves call train, validation, test; train is there
    columns: Mapping[str, str | tuple[str, ...]]  #: what a task asks for -> column that it is in, where the source knows
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  #: splits that :meth:`labelled` left out

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def column(self, name: str) -> list[Any]:
        """The values of one column over all parts.

        Raises:
            DataError: a part has no such column; names what is nearest.
        """
        for part in self.parts:
            if name not in part.columns:
                raise part.lacks(name)
        return [value for part in self.parts for value in part.columns[name]]

    def labelled(self, name: str) -> Rows:
        """Without the splits whose targets, the values of a column, are withheld; said in a note.

        A split other than train is withheld where all its values are null, or null and -1 where no training example has -1:
        benchmarks whose test targets are not public (GLUE on the hub) write that in their place, for classes and for numbers.
        """
        train = next(part for part in self.parts if ROLES[part.split] == "train")
        marks = not any(map(_is_mark, train.columns.get(name, ())))
        others = (part for part in self.parts if part is not train)
        return self.without(
            {part.split: left_out_note(part.split) for part in others if _is_withheld(part.columns.get(name, ()), marks)}
        )

    def without(self, splits: Mapping[str, str]) -> Rows:
        """Without these splits; split -> what is noted of it."""
        if not splits:
            return self
        kept = [part for part in self.parts if part.split not in splits]
        said = arrange([(part.split, len(part)) for part in self.parts], where=self.source)[2]  # of these splits, not of the rest
        notes = [*(note for note in self.notes if note not in said), *splits.values()]
        found = gather(kept, where=self.source, columns=self.columns, notes=notes)
        return dataclasses.replace(found, left_out=(*self.left_out, *splits))

    def texts(self, name: str, *, empty: bool = False) -> list[str]:
        """The values of a column of texts; ``empty``: null stands for an empty one.

        Raises:
            DataError: a part has no such column, or a value is no text.
        """
        values = ["" if empty and value is None else value for value in self.column(name)]
        bad = next((i for i, value in enumerate(values) if not isinstance(value, str)), None)
        if bad is not None:
            what = f"{mistakes.kind(values[bad])} in place of a text"
            raise DataError(what, where=f"{self.where(bad)} {name}", remedy="give a text")
        return values

    def notes_beside(self, *used: str) -> list[str]:
        """The notes, and one on the columns that are not used."""
        unused = [name for name in self.names() if name not in used]
        return [*self.notes, *([f"columns that are not used: {', '.join(unused)}"] if unused else [])]

    def names(self) -> tuple[str, ...]:
        """The columns that every part has, in the order of the first."""
        return tuple(name for name in self.parts[0].columns if all(name in part.columns for part in self.parts))

    def where(self, index: int) -> str:
        for part in self.parts:
            if index < len(part):
                return part.where(index)
            index -= len(part)
        raise IndexError(index)


def left_out_note(split: str) -> str:
    """The sentence about a split whose labels are withheld."""
    return f"the data's {split!r} split has no labels and is left out"


def _is_withheld(values: Sequence[Any], marks: bool) -> bool:
    """``marks``: -1 stands for a target that is not told."""
    return bool(values) and all(value is None or (marks and _is_mark(value)) for value in values)


def _is_mark(value: Any) -> bool:
    return value.strip() in ("-1", "-1.0") if isinstance(value, str) else isinstance(value, int | float) and value == -1


class TextSource(Source):
    """One place texts come from."""

    @abstractmethod
    def read(self) -> Rows:
        """All rows.

        Raises:
            DataError: missing, unreadable or contradictory data.
        """


def gather(
    parts: Sequence[RowPart],
    *,
    where: str,
    columns: Mapping[str, str | tuple[str, ...]] | None = None,
    notes: Sequence[str] = (),
) -> Rows:
    """Parts as one numbered whole, with the role of each.

    Raises:
        DataError: no train part, two parts with one role, an empty part.
    """
    for part in parts:
        if not len(part):
            raise DataError(f"split {part.split!r} has no rows", where=where, remedy="remove it or fill it")
    order, roles, said = arrange([(part.split, len(part)) for part in parts], where=where)
    arranged = tuple(parts[i] for i in order)
    return Rows(source=where, parts=arranged, roles=roles, columns=dict(columns or {}), notes=(*notes, *said))
