"""What is asked: the frame of a study file, checked without torch.

The options of a component (adapter, task, ...) are checked by the component itself, at plan time.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: use a-z 0-9 . _ -, starting with a letter or digit, at most 81 characters")
    return value


Name = Annotated[str, AfterValidator(_name)]
#: a component: its name, or {name: ..., option: value}
Spec = str | dict[str, Any]
Quantize = Literal["before", "after"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
ADAPTER = "adapter."  #: begins the name of an adapter's option that is tuned


class Frame(BaseModel):
    """Strict: unknown keys are errors, ``"5"`` is not 5."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class EarlyStopping(Frame):
    """Stop when the selection metric on validation has not improved for ``patience`` evaluations."""

    patience: Annotated[int, Field(ge=1)] = 3
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0


class Train(Frame):
    """How an arm is trained. Every key can be overridden per arm."""

    epochs: Annotated[float, Field(gt=0)] = 5
    max_steps: Annotated[int, Field(ge=0)] | None = None  #: optimizer steps; caps ``epochs``; 0: evaluated without training
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64  #: examples per forward pass
    effective_batch_size: Annotated[int, Field(ge=1)] | None = None  #: examples per optimizer step; default batch_size
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    beta1: Share = 0.9
    beta2: Share = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.06  #: share of all steps
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gradient_checkpointing: bool = False
    evaluate_every: Annotated[float, Field(gt=0)] = 1.0  #: epochs between two evaluations on validation
    early_stopping: EarlyStopping | None = None
    select: Literal["last", "best"] = "last"  #: weights that are tested: the last, or the best on validation
    on_out_of_memory: Literal["fail", "accumulate"] = "fail"
    on_non_finite: Literal["fail", "higher-precision"] = "fail"
    on_device_failure: Literal["fail", "cpu"] = "fail"

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        whole = self.effective_batch_size
        if isinstance(self.batch_size, int) and whole is not None and whole % self.batch_size:
            raise ValueError(
                f"effective_batch_size {self.effective_batch_size} is not a multiple of batch_size {self.batch_size}"
            )
        if self.early_stopping and self.select == "last":
            raise ValueError("early_stopping needs select: best (the last weights are those that stopped improving)")
        return self


class Arm(BaseModel):
    """One treatment before its grid is expanded; further keys override ``train``."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    adapter: Spec | list[Spec]
    allocator: Spec | list[Spec] | None = None
    quantizer: Spec | list[Spec] = "none"
    quantize: Quantize | list[Quantize] = "before"  #: the frozen weights before training, or the merged model after it


class Margin(Frame):
    """Non-inferiority margin: relative (0.03 = within 3 % of the baseline) or absolute (in units of the metric)."""

    relative: Annotated[float, Field(gt=0, lt=1)] | None = None
    absolute: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Margin:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError("give exactly one of relative, absolute")
        return self


class Analysis(Frame):
    """The analysis plan, declared before anything runs."""

    metric: str = "accuracy"
    baseline: str | None = None  #: label of the arm that the others are compared with
    margin: Margin = Margin(relative=0.03)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Range(Frame):
    """Numbers from ``low`` to ``high``, both included; where ``log``, every factor is as likely, not every difference."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high (got {self.low:g} and {self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0 (got {self.low:g})")
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
    """As many trials for every arm, on seeds that are never used for evaluation, judged on validation data.

    Further keys say what is searched: keys of ``train``, and options of the adapter as ``adapter.OPTION``, each with a list of
    values or (not in a grid) a :class:`Range`.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    on: Literal["validation"] = "validation"
    sampler: Literal["grid", "random", "tpe", "halving"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None  #: per arm, each run once per seed; of a grid: all of it
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
        """Trials of every arm."""
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
            raise ValueError("name at least one key of train with the values to try, e.g. learning_rate: [3e-4, 1e-3]")
        for key, values in asked.items():
            self._check(key, values)
        if self.sampler == "halving":
            return self._halvable(asked)
        if self.reduction != Tune.model_fields["reduction"].default:
            raise ValueError("reduction belongs to sampler: halving")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"sampler: {self.sampler} needs the number of trials, e.g. trials: 20")
        if self.sampler == "tpe" and self.trials == 1:
            raise ValueError("sampler: tpe needs trials: 2 or more, because the first half is drawn at random")
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
            raise ValueError(f"{min(budget)} cannot be tried: the number of steps is what sampler: halving divides")
        return self

    def _check(self, key: str, values: Any) -> None:
        if key not in Train.model_fields and not (key.startswith(ADAPTER) and key != ADAPTER):
            raise ValueError(f"{key!r} is no key of train, nor an option of the adapter as {ADAPTER}OPTION")
        if isinstance(values, dict):
            if self.listed:
                raise ValueError(f"{key}: a {self.sampler} needs a list of values to try; a range needs sampler: random or tpe")
            try:
                found = Range.model_validate(values)
            except ValidationError as error:
                first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
                place = ".".join([key, *(str(part) for part in first["loc"][:1])])
                unknown = f"unknown key, a range has {', '.join(Range.model_fields)}"
                what = unknown if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
                raise ValueError(f"{place}: {what}") from error
            if key in Train.model_fields and found.of(Train.model_fields[key].annotation) is None:
                raise ValueError(f"{key} takes no such numbers; give a list of values to try")
        elif not isinstance(values, list) or not values:
            raise ValueError(f"{key} needs a list of values to try" + ("" if self.listed else " or a range"))
        elif self.sampler != "grid" and any(value in values[:i] for i, value in enumerate(values)):
            raise ValueError(f"{key} lists a value twice")


class Racing(Frame):
    """Seed by seed, and an arm leaves when what is asked about it is shown (analysis/racing.py says by which test)."""

    method: Literal["racing"]
    #: what is asked: which arm is best, or which arms are within the declared margin of the baseline
    goal: Literal["best", "margin"] = "best"
    minimum: Annotated[int, Field(ge=2)] = 3  #: seeds of every arm before the first look
    margin: Margin | None = None  #: of ``best``: an arm leaves when it is worse by more than this; None: by however little
    keep: list[str] = []  #: labels of arms that never leave, as the baseline never does

    @model_validator(mode="after")
    def _one_margin(self) -> Racing:
        if self.goal == "margin" and self.margin is not None:
            raise ValueError("goal: margin asks about analysis.margin; leave search.margin out")
        return self


class Require(Frame):
    """Conditions on every arm but full fine-tuning, checked at plan time, as the arm starts."""

    #: largest share of all parameters (backbone, head and what the adapter adds) that the adapter trains
    trainable_percent: Annotated[float, Field(gt=0, le=100)] | None = None
    count_head: bool = False  #: the head, which every arm trains afresh, counts as the adapter's


class Study(Frame):
    """One YAML file: one question, its arms, tasks, seeds, training and analysis plan."""

    study: Name
    question: str = ""
    source: str = ""  #: where the design comes from (paper, earlier study)
    cost: str = ""  #: what it takes, as measured (machine, minutes)
    backbone: str
    task: dict[str, Any]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    train: Train = Train()
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    matrix: dict[str, list[Any]] = {}
    tune: Tune | None = None
    search: Racing | None = None  #: how the evaluation runs are spent; None: every arm on every seed
    require: Require = Require()
    trackers: list[Spec] = []  #: who else is shown the runs; no part of what defines them
    probes: dict[str, dict[str, Any]] = {}  #: probe -> its options; no part of what defines a run either
    analysis: Analysis = Analysis()

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: a seed is listed twice")
        if self.tune and set(self.tune.seeds) & set(self.seeds):
            raise ValueError("tune.seeds: tuning seeds must not be evaluation seeds")
        if self.search and self.search.minimum >= len(self.seeds):
            raise ValueError(
                f"search.minimum: the first look is at seed {self.search.minimum} of {len(self.seeds)}, so nothing is spared; "
                "plan more seeds (racing pays from about 15 on), or leave search out"
            )
        if self.search and self.search.goal == "margin" and self.analysis.baseline is None:
            raise ValueError("search.goal: margin compares with a baseline; name one in analysis.baseline")
        return self
