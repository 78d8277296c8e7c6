"""The form of ``findings.json``: every statement with its numbers, and the declared plan beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

SCHEMA_VERSION = 1

Kind = Literal[
    "level", "difference", "non_inferiority", "non_inferiority_everywhere", "equivalence", "pareto", "power",
    "over_tasks", "new_tasks", "interquartile_mean", "improvement", "effect", "interaction",
    "effect_over_tasks", "interaction_over_tasks", "sampling",
]  # fmt: skip
OVER_TASKS: tuple[Kind, ...] = ("effect_over_tasks", "interaction_over_tasks")  #: of options, tasks counted as a sample
Verdict = Literal[
    "estimated",
    "better",
    "worse",
    "no difference shown",
    "non-inferior",
    "inferior",
    "equivalent",
    "not shown",
    "cannot be tested",
    "on the front",
    "off the front",
    "interaction shown",
    "no interaction shown",
]


class Form(BaseModel):
    """Frozen, closed: an unknown key in ``findings.json`` is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(Form):
    """One statistical statement over records."""

    id: str
    kind: Kind
    task: str
    backbone: str
    metric: str
    arms: list[str]  #: the arm, then what it is compared with
    estimate: float | None  #: in units of the metric; margin tests: mean of d_i; pareto: probability of being on the front
    interval: tuple[float, float] | None = None
    confidence: float
    n: int  #: seeds, or pairs of seeds
    p: float | None = None
    p_adjusted: float | None = None  #: Holm over the family named in the plan
    p_sign_flip: float | None = None  #: exact permutation test, a check of the normal assumption
    correlation: float | None = None  #: of the two arms over seeds
    verdict: Verdict
    sentence: str
    details: dict[str, Any] = {}


class Efficiency(Form):
    """What an arm keeps of the baseline's gain, for how many of its parameters (analysis/efficiency.py)."""

    reference: str  #: the arm from which gains are counted
    kept: float  #: share of the gain
    interval: tuple[float, float] | None
    saved_percent: float  #: trainable parameters that it has less than the baseline
    ratio: float  #: share of the gain over share of the parameters
    ratio_interval: tuple[float, float] | None


class ArmSummary(Form):
    """What one arm reached and took in one setting. Memory is the largest and time the mean over seeds."""

    label: str
    arm: str
    factors: dict[str, str] = {}
    task: str
    backbone: str
    baseline: bool = False
    n: int
    mean: float | None
    interval: tuple[float, float] | None
    sd: float | None
    values: list[float | None]  #: one per seed and fold of ``Findings.pairs``, None where there is no outcome
    majority: float | None = None  #: what always giving the most frequent class reaches
    imputed: int = 0  #: diverged runs, counted at ``AnalysisPlan.imputed_at``
    failed: int = 0
    trainable: float | None = None  #: the most that a run held
    trainable_at_end: float | None = None  #: mean over runs; None where no run's count changed
    total: float | None = None
    trainable_percent: float | None = None
    percent_of_baseline: float | None = None  #: trainable parameters, of the baseline's
    measured_peak_mb: float | None = None
    predicted_peak_mb: float | None = None
    train_s: float | None = None
    efficiency: Efficiency | None = None
    front: dict[str, float] = {}  #: cost -> probability of being on that Pareto front
    flags: list[str] = []
    left_early: bool = False  #: of a race: its mean lacks seeds that other arms have, so that the two are not to be ranked


class Pairs(Form):
    """Every two arms of one setting over the same seeds, but for pairs with the baseline: those were declared and are findings.

    Columns of equal length, an entry per pair (analysis/pairwise.py).
    """

    task: str
    backbone: str
    arms: list[str]
    first: list[int]  #: index in ``arms``
    second: list[int]
    n: list[int]  #: seeds, and folds, that both arms have
    estimate: list[float | None]  #: first minus second, in units of the metric
    low: list[float | None]  #: interval, not adjusted
    high: list[float | None]
    p: list[float | None]  #: two-sided paired t test
    p_adjusted: list[float | None]  #: Holm over all exploratory pairs of the study
    correlation: list[float | None]  #: of the two arms over seeds
    verdict: list[Verdict]  #: of the first arm against the second


def alpha_of(confidence: float) -> float:
    """Level of tests beside intervals of this confidence; 1 - 0.95 is not 0.05 in floating point."""
    return round(1 - confidence, 12)


class AnalysisPlan(Form):
    """What was declared before anything ran, and how it is carried out."""

    metric: str
    split: str
    higher_is_better: bool
    baseline: str | None
    margin_relative: float | None
    margin_absolute: float | None
    margin_declared: bool = True  #: False where it was given afterwards, to `choose`
    confidence: float
    replication: str
    difference_test: str
    margin_test: str
    equivalence_test: str
    adjustment: str
    family_size: int
    exploratory: str = ""  #: how pairs of arms without the baseline are compared and adjusted
    pairs_declared: bool = False  #: those pairs are what a race for the best arm asks about, and no more exploratory
    intervals: str
    bootstrap_resamples: int
    bootstrap_seed: int
    imputed_at: str = "chance level"  #: where diverged runs stand
    further: list[str] = []  #: how statements over tasks, factors and test examples are made, where there are any
    anytime: bool = False  #: tests and intervals hold at any number of seeds, because arms left when something was shown

    @property
    def alpha(self) -> float:
        """Level of every test, after adjustment."""
        return alpha_of(self.confidence)

    @property
    def interval_word(self) -> str:
        return "anytime-valid interval" if self.anytime else "interval"

    @property
    def p_word(self) -> str:
        """Before a p value."""
        return "anytime-valid " if self.anytime else ""


class Findings(Form):
    """``analysis/findings.json``."""

    schema_version: int = SCHEMA_VERSION
    study: str
    question: str
    verdict: list[str]  #: the answer in words, most important first
    plan: AnalysisPlan
    arms: list[ArmSummary]
    pairs: list[tuple[int, int]]  #: (seed, fold) of ``ArmSummary.values``, of all settings
    findings: list[Finding]
    exploratory: list[Pairs] = []  #: one per setting: what nobody declared before the runs, but for ``plan.pairs_declared``
    notes: list[str]  #: what a careful reader should keep in mind
    warnings: list[str]
    problems: list[dict[str, Any]]  #: runs that failed, diverged, are missing or cannot be read
    runs: dict[str, int]  #: status -> number
    versions: dict[str, str]

    def of(self, kind: Kind, label: str | None = None, task: str | None = None, backbone: str | None = None) -> list[Finding]:
        """Findings of a kind, of one arm (the first named) and setting if given."""
        return [
            f
            for f in self.findings
            if f.kind == kind
            and label in (None, f.arms[0] if f.arms else None)
            and task in (None, f.task)
            and backbone in (None, f.backbone)
        ]

    @model_validator(mode="after")
    def _values_of_pairs(self) -> Self:
        if any(len(arm.values) != len(self.pairs) for arm in self.arms):
            raise ValueError("an arm needs a value, or null, for each seed and fold")
        return self

    def places(self, task: str, backbone: str) -> list[int]:
        """Where in ``pairs`` the seeds and folds of a setting stand: another one may have others."""
        arms = [arm for arm in self.arms if (arm.task, arm.backbone) == (task, backbone)]
        return [i for i in range(len(self.pairs)) if any(arm.values[i] is not None for arm in arms)]

    def incomplete(self) -> list[ArmSummary]:
        """Arms without an outcome for a seed of the study, or for a fold of their setting."""
        seeds, found = {seed for seed, _ in self.pairs}, []
        for arm in self.arms:
            places = self.places(arm.task, arm.backbone)
            there = {self.pairs[i][0] for i in places}
            found += [arm] if there != seeds or any(arm.values[i] is None for i in places) else []
        return found


def write_schema() -> None:
    """``findings.schema.json`` beside this file: the form of ``findings.json`` for readers that are not Python."""
    schema = Findings.model_json_schema(mode="serialization")
    Path(__file__).with_suffix(".schema.json").write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")
