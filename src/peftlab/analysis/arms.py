"""The form of ``analysis/arms.json``: what the figures about whole arms show beyond the findings, setting by setting."""

from __future__ import annotations

from peftlab.analysis.findings import Form
from peftlab.analysis.means import Mean

SCHEMA_VERSION = 1


class Resources(Form):
    """What one arm took, over its runs."""

    arm: str
    train_s: Mean | None
    peak_mb: Mean | None
    deployed_mb: float | None  #: of the whole model as it would be stored
    deployed_front: float | None = None  #: probability over seeds of being on the front of quality and those bytes
    saved: Mean | None = None  #: share of the baseline's peak, process apart, over the same seeds
    #: the paired difference of quality from the baseline, as the findings have it
    change: float | None = None
    interval: tuple[float, float] | None = None


class Effect(Form):
    """One level of one factor against its reference, all else equal, paired by seed."""

    factor: str
    arm: str
    level: str
    against: str
    reference: str
    difference: float  #: arm minus reference, in units of the metric
    interval: tuple[float, float] | None  #: not adjusted
    n: int
    p: float | None
    p_adjusted: float | None  #: Holm over all effects of the study's setting
    alpha: float = 0.05

    @property
    def shown(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted <= self.alpha


class Convergence(Form):
    """How fast runs of one rank rose, within a family of arms that differ in nothing else."""

    family: str
    arm: str
    rank: int
    goal: float  #: level of the validation metric that counts as arrived, the same for all ranks of a family
    steps: Mean | None  #: to the goal, over the runs that reached it
    reached: int
    runs: int  #: diverged ones count: they never arrived
    area: Mean | None  #: mean height of the validation curve


class Scatter(Form):
    """Two quantities of runs, and how they go together."""

    kind: str  #: ``validation`` against the judged split, or ``seeds``: every arm against the baseline
    arm: list[str]  #: of every point
    x: list[float]
    y: list[float]
    between: tuple[float, tuple[float, float] | None, int] | None  #: r of the arms' means, its interval, arms
    within: tuple[float, tuple[float, float] | None, int] | None  #: r within arms, no interval (METHOD says why), runs


class Ranking(Form):
    """Mean ranks over blocks. ``refused`` says why there are none."""

    refused: str = ""
    blocks: int = 0
    over: str = "seeds"  #: what a block is
    arms: list[str] = []
    mean_ranks: list[float] = []
    groups: list[list[str]] = []  #: largest sets of which no two are told apart
    p: float | None = None
    critical_difference: float | None = None
    alpha: float = 0.05
    left_out: list[str] = []  #: arms that lack a value in some block


class Profile(Form):
    """Share of an arm's runs beyond each level."""

    arm: str
    runs: int
    share: list[float]
    low: list[float]
    high: list[float]


class Profiles(Form):
    """Of all arms."""

    levels: list[float] = []
    profiles: list[Profile] = []


class Arms(Form):
    """One task on one backbone."""

    task: str
    backbone: str
    resources: list[Resources] = []
    effects: list[Effect] = []
    convergence: list[Convergence] = []
    scatters: list[Scatter] = []
    ranking: Ranking = Ranking()
    profiles: Profiles = Profiles()


class ArmFindings(Form):
    """``analysis/arms.json``."""

    schema_version: int = SCHEMA_VERSION
    settings: list[Arms]
    method: list[str]

    def of(self, task: str, backbone: str) -> Arms | None:
        return next((s for s in self.settings if (s.task, s.backbone) == (task, backbone)), None)
