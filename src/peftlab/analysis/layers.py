"""The form of ``analysis/importance.json``: what is said about layers, and how sure it is."""

from __future__ import annotations

from typing import Literal

from peftlab.analysis.findings import Form

SCHEMA_VERSION = 1

Kind = Literal["seeds", "metrics", "settings", "last snapshot"]


class Module(Form):
    """One module over seeds. The mean is a share of the run's sum, or a rank."""

    site: str
    block: int | None
    role: str
    mean: float
    interval: tuple[float, float] | None  #: Student's t over seeds, not adjusted for the number of modules
    sd: float | None
    n: int  #: seeds
    above: bool  #: the whole interval lies above that of the average module
    below: bool


class ModuleMap(Form):
    """All modules of one arm in one setting, by one metric."""

    arm: str
    task: str
    backbone: str
    metric: str
    n: int
    uniform: float  #: what every module would have if all had the same
    modules: list[Module]
    most: list[str]
    least: list[str]


class Contrast(Form):
    """One kind of module against another, paired by block; 1 is the share of the average module."""

    arm: str
    task: str
    backbone: str
    metric: str
    what: str
    estimate: float
    interval: tuple[float, float] | None  #: t over blocks, of the mean over seeds
    blocks: int
    interval_over_seeds: tuple[float, float] | None  #: t over seeds, of the mean over blocks
    n: int  #: seeds
    p_sign_flip: float | None  #: two-sided, exact up to 16 blocks
    p_adjusted: float | None  #: Holm over the metrics and contrasts of this arm and setting
    alpha: float = 0.05
    family_size: int

    @property
    def shown(self) -> bool:
        """The adjusted test and the interval over seeds both say the same."""
        bounds = self.interval_over_seeds
        return self.p_adjusted is not None and self.p_adjusted <= self.alpha and bounds is not None and bounds[0] * bounds[1] > 0


class Agreement(Form):
    """Kendall's tau-b between maps. Between seeds and settings: mean over pairs, jackknife over seeds; else: t over seeds."""

    kind: Kind
    arm: str
    task: str
    backbone: str
    metric: str
    other: str = ""  #: the other metric or setting
    step: int | None = None
    tau: float
    interval: tuple[float, float] | None
    n: int  #: seeds
    pairs: int


class AdaptiveRow(Form):
    """An arm whose ranks were decided during training against one whose ranks were fixed, over the same seeds."""

    adaptive: str
    fixed: str
    task: str
    backbone: str
    metric: str
    difference: float | None  #: adaptive minus fixed
    interval: tuple[float, float] | None
    n: int  #: pairs
    p: float | None
    p_adjusted: float | None  #: Holm over all rows of the setting
    parameters_at_most: float | None  #: the most that a run held; mean over seeds, head included
    parameters_at_end: float | None
    parameters_fixed: float | None
    ranks_at_end: float | None
    ranks_fixed: float | None
    equal_parameters: bool  #: within 1 %
    equal_ranks: bool
    effective_scale: float | None  #: of the adaptive arm's update, as its allocator recorded it
    allocator_share: float | None  #: time in the allocator / training time
    memory_mb: float | None  #: measured peak, mean over seeds
    memory_fixed_mb: float | None


class Layers(Form):
    """``analysis/importance.json``."""

    schema_version: int = SCHEMA_VERSION
    confidence: float
    importance: list[ModuleMap]  #: shares of importance
    ranks: list[ModuleMap]  #: final ranks
    contrasts: list[Contrast]
    agreement: list[Agreement]
    stability: list[Agreement]
    adaptive: list[AdaptiveRow]
    sentences: list[str]  #: what can be said, most important first
    method: list[str]  #: how it was computed
    notes: list[str]
