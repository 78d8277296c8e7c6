"""What is asked: the frame of a study file, checked without torch.

The options of a component (adapter, task, ...) are checked by the component itself, at plan time.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from peftlab.study.train import EarlyStopping, Frame, Seed, Train
from peftlab.study.tune import ADAPTER, Range, Tune

__all__ = [
    "ADAPTER", "NAME", "Analysis", "Arm", "EarlyStopping", "Frame", "Margin", "Quantize", "Racing", "Range", "Require", "Study",
    "Train", "Tune",
]  # fmt: skip

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value[:50]!r} is no name; use a-z 0-9 . _ -, starting with a letter or digit, at most 81 characters")
    return value


Name = Annotated[str, AfterValidator(_name)]
#: a component: its name, or {name: ..., option: value}
Spec = str | dict[str, Any]
Quantize = Literal["before", "after"]


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
            raise ValueError(
                "a margin is either relative or absolute; give exactly one of relative, absolute, e.g. {relative: 0.03}"
            )
        return self


class Analysis(Frame):
    """The analysis plan, declared before anything runs."""

    metric: str = "accuracy"
    baseline: str | None = None  #: label of the arm that the others are compared with
    margin: Margin = Margin(relative=0.03)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Racing(Frame):
    """Seed by seed, and an arm leaves when what is asked about it is shown (analysis/racing.py says by which test)."""

    method: Literal["racing"]
    #: what is asked: which arm is best, or which arms are within the declared margin of the baseline
    goal: Literal["best", "margin"] = "best"
    minimum: Annotated[int, Field(ge=2)] = 3  #: seeds of every arm before the first look
    margin: Margin | None = None  #: of ``best``: an arm leaves when it is worse by more than this; None: by however little
    #: an arm also leaves, its question open, when the chance that the last seed will have answered it is below this; 0: none does
    futility: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    keep: list[str] = []  #: labels of arms that never leave, as the baseline never does

    @field_validator("method", mode="before")
    @classmethod
    def _no_sampler(cls, value: Any) -> Any:
        """Other programs have both under one key; here they answer different questions."""
        if isinstance(value, str) and "halving" in value.lower():
            raise ValueError(
                f"{value[:50]!r} chooses training values before the study, a race stops arms within it; "
                "write tune: {sampler: halving, ...} for it, or method: racing here"
            )
        return value

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
    seeds: Annotated[list[Seed], Field(min_length=1)]
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
            raise ValueError("seeds: a seed is listed twice; list each once")
        if self.tune and set(self.tune.seeds) & set(self.seeds):
            raise ValueError("tune.seeds: tuning seeds must not be evaluation seeds; use others, e.g. [100, 101]")
        if self.search and self.search.minimum >= len(self.seeds):
            raise ValueError(
                f"search.minimum: the first look is at seed {self.search.minimum} of {len(self.seeds)}, so nothing is spared; "
                "plan more seeds (racing pays from about 15 on), or leave search out"
            )
        if self.search and self.search.goal == "margin" and self.analysis.baseline is None:
            raise ValueError("search.goal: margin compares with a baseline; name one in analysis.baseline")
        return self
