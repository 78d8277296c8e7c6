"""The keys of ``tune`` in a study file: what is searched, and by what."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from peftlab import mistakes
from peftlab.errors import nearest
from peftlab.study.train import Frame, Seed, Train

MOST_TRIALS = 10_000  #: of an arm; more are a slip of the keyboard
ADAPTER = "adapter."  #: begins the name of an adapter's option that is tuned


class Range(Frame):
    """Numbers from ``low`` to ``high``, both included; where ``log``, every factor is as likely, not every difference."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high (got {self.low:g} and {self.high:g}); change places or values")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0 (got {self.low:g}); raise it, or leave log out")
        return self

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def of(self, annotation: Any) -> Range | None:
        """The range as an option of this type takes it; None for an option that takes no such numbers."""
        kinds = _kinds(annotation)
        if float in kinds:
            return Range(low=float(self.low), high=float(self.high), log=self.log)
        return self if int in kinds and self.whole else None


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation} if isinstance(annotation, type) else set()


class Tune(BaseModel):
    """As many trials for every arm (with folds, for every fold of it), on seeds that are never used for evaluation, judged on
    validation data.

    Further keys say what is searched: keys of ``train``, and options of the adapter as ``adapter.OPTION``, each with a list of
    values or (not in a grid) a :class:`Range`.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    seeds: Annotated[list[Seed], Field(min_length=1)]
    on: Literal["validation"] = "validation"
    sampler: Literal["grid", "random", "tpe", "halving"] = "grid"
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None  #: per arm and fold, a run a seed; of a grid: all of it
    reduction: Annotated[int, Field(ge=2)] = 3  #: of ``halving``: one value in so many goes on, with so many times the steps

    @property
    def space(self) -> dict[str, list[Any] | Range]:
        """Key -> values to try; keys of ``train`` first, so that arms that lack an option share the draws of the others."""
        found = {k: Range.model_validate(v) if isinstance(v, dict) else v for k, v in (self.__pydantic_extra__ or {}).items()}
        typed = {k: v.of(Train.model_fields[k].annotation) or v if isinstance(v, Range) and k in Train.model_fields else v
                 for k, v in found.items()}  # fmt: skip
        return dict(sorted(typed.items(), key=lambda item: item[0].startswith(ADAPTER)))

    @property
    def grid(self) -> dict[str, list[Any]]:
        """The lists of values."""
        return {key: values for key, values in self.space.items() if isinstance(values, list)}

    @property
    def number(self) -> int:
        """Trials of every arm, of each of its folds."""
        if self.sampler == "halving":
            return sum(number for number, _ in self.rungs)
        return self.trials if self.sampler != "grid" and self.trials else math.prod(map(len, self.grid.values()))

    @property
    def rungs(self) -> list[tuple[int, float]]:
        """Of ``halving``: (values, share of the steps) of every rung, until as many values are left as one rung tells apart.

        n, ceil(n / r), ... values with r^-k, r^-(k-1), ..., 1 of the steps, r = ``reduction``.
        """
        numbers = [math.prod(map(len, self.grid.values()))]
        while numbers[-1] > self.reduction:
            numbers.append(math.ceil(numbers[-1] / self.reduction))
        return [(number, float(self.reduction) ** (i - len(numbers) + 1)) for i, number in enumerate(numbers)]

    def rung_of(self, trial: int) -> tuple[int, int, float]:
        """(first trial of its rung, one after the last, share of the steps); of other samplers all is one rung."""
        first = 0
        for number, share in self.rungs if self.sampler == "halving" else [(self.number, 1.0)]:
            if trial < first + number:
                return first, first + number, share
            first += number
        raise IndexError(trial)

    @property
    def listed(self) -> bool:
        """Whether every combination of lists is tried, so that nothing is drawn."""
        return self.sampler in ("grid", "halving")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, raw: Any) -> Any:
        """``adapter: {rank: ...}`` is ``adapter.rank: ...``, which is how `--set tune.adapter.rank=...` arrives."""
        if not isinstance(raw, dict) or not isinstance(raw.get("adapter"), dict):
            return raw
        rest = {key: value for key, value in raw.items() if key != "adapter"}
        return {**rest, **{f"{ADAPTER}{option}": values for option, values in raw["adapter"].items()}}

    @model_validator(mode="after")
    def _searchable(self) -> Tune:
        asked = self.__pydantic_extra__ or {}
        if not asked:
            raise ValueError(
                "nothing is searched; name at least one key of train with the values to try, e.g. learning_rate: [3e-4, 1e-3]"
            )
        for key, values in asked.items():
            self._check(key, values)
        if self.sampler == "halving":
            return self._halvable(asked)
        if self.reduction != Tune.model_fields["reduction"].default:
            raise ValueError("reduction belongs to sampler: halving; leave it out")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"sampler: {self.sampler} needs the number of trials; add it, e.g. trials: 20")
        if self.sampler == "tpe" and self.trials == 1:
            raise ValueError("sampler: tpe needs trials: 2 or more, because the first half is drawn at random; raise trials")
        size = math.prod(map(len, self.grid.values()))
        if self.sampler == "grid" and self.trials not in (None, size):
            what = "smaller" if (self.trials or 0) < size else "larger"
            raise ValueError(f"trials: {self.trials} is {what} than the grid, which has {size}; leave it out")
        return self

    def _halvable(self, asked: dict[str, Any]) -> Tune:
        size = math.prod(map(len, self.grid.values()))
        if self.trials is not None:
            raise ValueError("sampler: halving tries every combination of the lists; leave trials out")
        if size <= self.reduction:
            raise ValueError(f"sampler: halving needs more than {self.reduction} values (got {size}); use sampler: grid")
        if budget := {"epochs", "max_steps"} & set(asked):
            raise ValueError(f"{min(budget)} cannot be tried: the number of steps is what sampler: halving divides; leave it out")
        return self

    def _check(self, key: str, values: Any) -> None:
        if key not in Train.model_fields and not (key.startswith(ADAPTER) and key != ADAPTER):
            raise ValueError(
                f"{key!r} is no key of train, nor an option of the adapter as {ADAPTER}OPTION; {nearest(key, Train.model_fields)}"
            )
        if isinstance(values, dict):
            if self.listed:
                raise ValueError(f"{key}: a {self.sampler} needs a list of values to try; a range needs sampler: random or tpe")
            try:
                found = Range.model_validate(values)
            except ValidationError as error:
                first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
                place = ".".join([key, *(str(part) for part in first["loc"][:1])])
                unknown = f"unknown key; a range has {', '.join(Range.model_fields)}"
                said = "; ".join(mistakes.of_value([first]))
                raise ValueError(f"{place}: {unknown if first['type'] == 'extra_forbidden' else said}") from error
            if key in Train.model_fields and found.of(Train.model_fields[key].annotation) is None:
                raise ValueError(f"{key} takes no such numbers; give a list of values to try")
        elif not isinstance(values, list) or not values:
            raise ValueError(
                f"{key} needs a list of values to try{'' if self.listed else ' or a range'}; e.g. {key}: [1e-4, 1e-3]"
            )
        elif self.sampler != "grid" and any(value in values[:i] for i, value in enumerate(values)):
            raise ValueError(f"{key} lists a value twice; list it once")
