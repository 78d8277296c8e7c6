"""The form of ``analysis/quantization.json``: what quantized arms cost and saved, beside the same arms in float."""

from __future__ import annotations

from peftlab.analysis.findings import Form
from peftlab.analysis.literature import Row
from peftlab.analysis.means import Mean

SCHEMA_VERSION = 1


class Cell(Form):
    """One place of the table quantizer x adapter: a treatment under a scheme."""

    arm: str
    task: str
    backbone: str
    treatment: str
    scheme: str
    value: Mean | None  #: the declared metric
    times_smaller: float | None  #: stored bytes of the whole model in float / as stored
    bits_per_parameter: float | None  #: of the converted layers, everything included
    weights_mb: float | None  #: frozen weights while training, counted from the tensors that hold them
    process_before_mb: Mean | None  #: memory of the whole process (on a GPU: of the device) right before converting
    process_after_mb: Mean | None  #: and right after
    peak_mb: Mean | None  #: measured
    prediction_error: float | None  #: largest |predicted / measured - 1| of the peak
    weight_error: float | None  #: mean over layers of ||W - Q(W)|| / ||W||
    output_error: Mean | None  #: relative, before training
    gradient_error: Mean | None  #: relative, before training
    cancelled: Mean | None  #: share of ||W - Q(W)||^2 that the trained updates took back; below zero: they do more than undo
    aligned: Mean | None  #: what they would take back at their best length
    bound: Mean | None  #: the most that any update of that rank could
    area: Mean | None  #: mean height of the validation curve
    goal: float | None  #: 95 % of the way from chance to the best of the float arm; where lower is better, that best / 0.95
    arrived: int  #: runs that reached it
    steps_to_goal: Mean | None  #: None unless every run reached it
    runs: int


class Effect(Form):
    """A quantized arm against the same arm in float, paired by seed."""

    arm: str
    float_arm: str
    task: str
    backbone: str
    treatment: str
    scheme: str
    n: int
    change: float  #: of the declared metric
    interval: tuple[float, float] | None
    p: float | None  #: paired t test
    p_adjusted: float | None  #: Holm over the quantized arms of a setting
    alpha: float = 0.05
    p_sign_flip: float | None
    family_size: int
    stored_saved: float | None  #: share of the whole model's bytes, exact
    peak_saved: Mean | None  #: share of the measured training peak without the bare process
    area: Mean | None  #: change of the mean height of the validation curve, over the steps that both runs of a pair reached
    same_learning_rate: bool

    @property
    def shown(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted <= self.alpha


class Interaction(Form):
    """Whether what a scheme costs depends on the rank, within arms that differ in rank and quantizer only."""

    task: str
    backbone: str
    method: str
    scheme: str
    ranks: list[int]
    n: int
    slope: float  #: change of the effect per doubling of the rank
    interval: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None  #: Holm over the schemes and families of a setting
    alpha: float = 0.05
    family_size: int

    @property
    def shown(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted <= self.alpha


class TwoWayTest(Form):
    """Rank x scheme over all schemes at once."""

    task: str
    backbone: str
    method: str
    schemes: list[str]
    ranks: list[int]
    n: int
    f: float
    degrees: tuple[float, float]
    p: float


class Point(Form):
    """A step of a schedule, over layers and runs."""

    step: int
    rho: float  #: share of the quantized weights in those that were used
    balance: float | None  #: ||dW|| / ||W - Q(W)|| of the median layer, mean over runs
    low: float | None  #: of a tenth of the layers the balance is lower
    high: float | None  #: of a tenth it is higher


class Course(Form):
    """What an arm's quantizer did over training: rho, and how large the updates grew beside the quantization error."""

    arm: str
    task: str
    backbone: str
    treatment: str
    scheme: str
    schedule: str
    full_from_step: int  #: first step at rho = 1
    float_weights_mb: float  #: resident until then
    points: list[Point]
    balance_start: Mean | None  #: of the median layer, after the first step
    balance_end: Mean | None  #: after the last
    swamped: Mean | None  #: share of the layers whose update is larger than the error in the end
    runs: int


class WeightsBeside(Form):
    """A property of stored weights, ours beside a published one."""

    arms: list[str]
    task: str
    backbone: str
    scheme: str
    metric: str
    ours: float
    row: Row
    ratio: float | None  #: ours / published
    differs: list[str]


class Elsewhere(Form):
    """A published figure of a method that was used here, on another kind of task: named, not set against ours."""

    arms: list[str]
    task: str
    backbone: str
    row: Row


class QuantizationFindings(Form):
    """``analysis/quantization.json``."""

    schema_version: int = SCHEMA_VERSION
    metric: str
    higher_is_better: bool
    confidence: float
    cells: list[Cell]
    effects: list[Effect]
    interactions: list[Interaction]
    two_way: list[TwoWayTest]
    courses: list[Course] = []
    weights_beside: list[WeightsBeside] = []
    elsewhere: list[Elsewhere] = []
    sentences: list[str]
    method: list[str]

    def of(self, task: str, backbone: str) -> QuantizationFindings | None:
        """What is said about one setting; None where nothing is."""
        parts = {
            name: [entry for entry in getattr(self, name) if (entry.task, entry.backbone) == (task, backbone)]
            for name in ("cells", "effects", "interactions", "two_way", "courses", "weights_beside", "elsewhere")
        }
        return self.model_copy(update=parts) if parts["cells"] else None
