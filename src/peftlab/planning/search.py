"""What the tuning searches for each arm: the keys that the arm has, and what stands for values that are not drawn yet."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from peftlab.errors import OptionError, StudyError, nearest
from peftlab.registry import component
from peftlab.study.expand import Cell
from peftlab.study.schema import ADAPTER, Range, Tune

Space = Mapping[str, list[Any] | Range]
Values = Mapping[str, Any]
#: label, backbone, task
ArmKey = tuple[str, str, str]
_MOST = 1024  #: whole numbers of a range that are all checked before anything runs


class Key(NamedTuple):
    """What a search is of.

    Each fold is searched by itself, on its own training and validation part: examples that it is tested on choose nothing.
    """

    label: str
    backbone: str
    task: str
    fold: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready. No fold means the first, so that a study without folds is recorded as it always was."""
        return {name: value for name, value in self._asdict().items() if name != "fold" or value}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The tuning of one arm x backbone x task x fold."""

    key: Key
    space: Space
    lacks: tuple[str, ...]  #: keys that are searched for other arms and are no option of this one
    trials: int
    seeds: tuple[int, ...]  #: every trial is run once on each
    about: str  #: a hash of all else that decides the outcome of a trial: another training is another search

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        about = {"space": shown(self.space), "lacks": list(self.lacks), "trials": self.trials, "seeds": list(self.seeds)}
        return {**self.key.as_dict(), **about}


def shown(space: Space) -> dict[str, Any]:
    """JSON-ready."""
    return {key: values.model_dump() if isinstance(values, Range) else values for key, values in space.items()}


def adapter_options(values: Values) -> dict[str, Any]:
    """Those of the values that are options of the adapter, by the option's name."""
    return {key.removeprefix(ADAPTER): value for key, value in values.items() if key.startswith(ADAPTER)}


def space_of(cell: Cell, tune: Tune, cells: Sequence[Cell]) -> tuple[Space, tuple[str, ...]]:
    """(what is searched for this cell, what it lacks).

    Raises:
        StudyError: an option that no adapter of the study has, or of which the arm lists values itself; a grid that would be
            smaller for this arm than for others.
        OptionError: a range for an option that takes no numbers.
    """
    space: dict[str, list[Any] | Range] = {}
    for key, values in tune.space.items():
        if not key.startswith(ADAPTER):
            space[key] = values
            continue
        option = key.removeprefix(ADAPTER)
        known = {name for other in cells for name in _options(other)}
        if option not in known:
            raise StudyError(
                f"no adapter of the study has an option {option!r}", where=f"tune.{key}", remedy=nearest(option, known)
            )
        if option in _options(cell):
            _refuse_factor(cell, key, option)
            space[key] = _typed(cell, key, values)
    lacks = tuple(key for key in tune.space if key not in space)
    if lacks and tune.listed:
        raise StudyError(
            f"{cell.label} has no {', '.join(lacks)}, so a grid would give it fewer trials than the others",
            where=f"tune.{lacks[0]}",
            remedy=f"use `sampler: random` with `trials: {tune.number}`, or leave the key out",
        )
    return space, lacks


def _options(cell: Cell) -> dict[str, Any]:
    """The options of the cell's adapter with their types."""
    found = component("adapter", str(cell.adapter.get("name")), where=f"arms.{cell.arm}.adapter")
    hints = get_type_hints(found)
    return {field.name: hints[field.name] for field in dataclasses.fields(found) if field.init}  # pyright: ignore


def _refuse_factor(cell: Cell, key: str, option: str) -> None:
    if any(cell.factors.get(name, cell) == cell.adapter.get(option) for name in (option, key)):
        raise StudyError(
            f"the arm lists values of {key}, and the tuning would choose one of its own for each",
            where=f"arms.{cell.arm}.{key}",
            remedy="leave it to one of the two",
        )


def _typed(cell: Cell, key: str, values: list[Any] | Range) -> list[Any] | Range:
    if isinstance(values, list):
        return values
    found = values.of(_options(cell)[key.removeprefix(ADAPTER)])
    if found is None:
        what = f"{key} of {cell.label} takes no such numbers"
        raise OptionError(what, where=f"tune.{key}", remedy="give a list of values to try")
    return found


def grid(space: Space) -> list[Values]:
    """Every combination, the last key fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]  # pyright: ignore


def middle(space: Space) -> Values:
    """A combination that stands for those not drawn yet: the middle of each range (of its logarithm) or list."""
    return {key: _middle(values) for key, values in space.items()}


def _middle(values: list[Any] | Range) -> Any:
    if isinstance(values, list):
        return values[len(values) // 2]
    found = math.sqrt(values.low * values.high) if values.log else (values.low + values.high) / 2
    return round(found) if values.whole else found


def probes(space: Space) -> Iterator[Values]:
    """Combinations that differ from the middle in one key: every value of a list, the ends of a range."""
    for key, values in space.items():
        for value in values if isinstance(values, list) else (values.low, values.high):
            yield {**middle(space), key: value}


def tried(space: Space, tune: Tune) -> Sequence[Values]:
    """What is looked at before anything runs: all that is tried of lists, else :func:`probes`."""
    return grid(space) if tune.listed else list(probes(space))


def whole_numbers(space: Space) -> Iterator[Values]:
    """Likewise every whole number of a range of whole numbers: some options take only some of them."""
    for key, values in space.items():
        if isinstance(values, Range) and values.whole and values.high - values.low <= _MOST:
            for value in range(int(values.low), int(values.high) + 1):
                yield {**middle(space), key: value}


def shown_values(values: Values) -> str:
    """``learning_rate 0.001, adapter.rank 8``."""
    return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items())


def words(space: Space) -> str:
    """``learning_rate 0.0001 to 0.1 (log), adapter.rank 4, 8 or 16``."""
    return ", ".join(f"{key} {_words(values)}" for key, values in space.items())


def _words(values: list[Any] | Range) -> str:
    if isinstance(values, Range):
        return f"{values.low:g} to {values.high:g}" + (" (log)" if values.log else "")
    texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return f"{', '.join(texts[:-1])} or {texts[-1]}" if len(texts) > 1 else texts[0]


def adapter_values(space: Space) -> dict[str, list[Any]]:
    """Option of the adapter -> the values of :func:`probes`."""
    found: dict[str, list[Any]] = {}
    for key, values in space.items():
        if key.startswith(ADAPTER):
            found[key.removeprefix(ADAPTER)] = values if isinstance(values, list) else [values.low, values.high]
    return found


def missing_words(search: Search) -> str:
    """What an arm does not get because it has no such option."""
    label, without = search.key.label, " and no ".join(search.lacks)
    if not search.space:
        return f"{label} has no {without}: nothing of it is tuned"
    return f"{label} has no {without}: its {search.trials} trials are over {', '.join(search.space)}"


def rung_words(tune: Tune) -> str:
    """``9 values with 1/3 of the steps, 3 with all``, and what that is in whole trials."""
    parts = [f"{number} values with {share_words(share)}" for number, share in tune.rungs]
    spent = sum(number * share for number, share in tune.rungs)
    return f"{', then '.join(parts)}; together as many steps as {spent:.3g} whole trials of {tune.rungs[0][0]}"


def share_words(share: float) -> str:
    """Of the steps."""
    return "all steps" if share == 1 else f"1/{round(1 / share)} of the steps"


def shortened(total: int, share: float, label: str) -> int:
    """Steps of a trial that gets a share of them.

    Raises:
        StudyError: fewer than two.
    """
    if (steps := round(total * share)) < 2:
        raise StudyError(
            f"{share_words(share)} of {label}, {total}, are too few to tell values apart",
            where="tune.reduction",
            remedy="train longer, try fewer values, or use sampler: grid",
        )
    return steps
