"""Group-wise quantization of the frozen weights, with an optional quantization-aware schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from peftlab.errors import OptionError
from peftlab.nn.groups import BITS, BOOKS, GroupKind, check_group_size, half_gap
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import QuantizedLinear
from peftlab.nn.shares import share_of
from peftlab.quantizers._schedule import QuantizationHook, Ramp
from peftlab.quantizers.contract import Quantizer
from peftlab.study.schema import Quantize, Train

_LATEST = 0.8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Groupwise(Quantizer):
    """W~ = a (q - b) (int2 to int8) or m book[q] + c (nf4, fp4), statistics per ``group_size`` neighbouring inputs of an output.

    Stored packed without gaps, with statistics in float32: bits + 64/g bits per parameter for int2, int3, int4 and int8, 4 + 32/g
    for nf4 and fp4 (Xu et al. 2023, section 3.2; code books of Dettmers et al. 2023). A zero point or offset can take
    up an update that is constant in each group: what adapter ``pooled`` trains.

    ``schedule``: weights used in training step t are (1 - rho) W + rho Q(W); evaluation is always at rho = 1. With x =
    (t - t0)/(t1 - t0) within [0, 1], ``linear``: rho = x, ``cosine``: rho = (1 - cos(pi x))/2. While rho < 1 the float weights
    stay resident and no memory is saved, which ``quantization_history.json`` says.
    """

    name: ClassVar[str] = "groupwise"
    methods: ClassVar[Mapping[str, str]] = {
        "INT4": "quantizer: {name: groupwise, type: int4}",
        "INT8": "quantizer: {name: groupwise, type: int8}",
    }
    citation: ClassVar[str] = """@inproceedings{xu2024qalora,
  title = {{QA-LoRA}: Quantization-Aware Low-Rank Adaptation of Large Language Models},
  author = {Xu, Yuhui and Xie, Lingxi and Gu, Xiaotao and Chen, Xin and Chang, Heng and Zhang, Hengheng and Chen, Zhengsu
    and Zhang, Xiaopeng and Tian, Qi},
  booktitle = {International Conference on Learning Representations}, year = {2024},
  eprint = {2309.14717}, archivePrefix = {arXiv}
}"""

    type: GroupKind = "int4"
    group_size: int = 32  #: g, inputs that share a scale and a zero point; must divide d_in of every layer
    schedule: Literal["constant", "linear", "cosine"] = "constant"  #: of rho; constant: 1 from the first step on
    start: float | None = None  #: t0 as a share of the run; default 0
    end: float | None = None  #: t1 as a share of the run, at most 0.8, so that the last phase is at rho = 1; default 0.5
    scale_updates: bool = False  #: multiply each layer's learning rate by 1/(1 + rho e), e = ||W - Q(W)|| / ||W||
    bounds: bool = True  #: record what share of the error an update of the adapter's rank could cancel

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise OptionError(f"must be at least 1, got {self.group_size}", where="group_size", remedy="e.g. 32")
        for option in ("start", "end"):
            if self.schedule == "constant" and getattr(self, option) is not None:
                raise OptionError(
                    "a constant schedule neither starts nor ends", where=option, remedy="remove it, or use linear or cosine"
                )
        t0, t1 = self.phase
        if not 0 <= t0 < t1 <= _LATEST:
            raise OptionError(
                f"the schedule must start before it ends and be at rho = 1 from {_LATEST} of the run on, got {t0} to {t1}",
                where="end",
                remedy=f"0 <= start < end <= {_LATEST}",
            )

    @property
    def phase(self) -> tuple[float, float]:
        """(t0, t1) as shares of the run."""
        return self.start if self.start is not None else 0.0, self.end if self.end is not None else 0.5

    @property
    def scheme(self) -> str:
        return f"{self.type}-g{self.group_size}"

    @property
    def shared_inputs(self) -> int:
        return self.group_size

    @property
    def requantized_share(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0.01 if self.type == "fp4" else 0.001  # fp4 has two codes for zero

    def refuse(self, device: str) -> str | None:
        return None  # plain torch operations

    def check(self, train: Train, quantize: Quantize) -> None:
        acting = [o for o, acts in (("schedule", self.schedule != "constant"), ("scale_updates", self.scale_updates)) if acts]
        if quantize == "after" and acting:
            raise OptionError(
                f"{acting[0]!r} acts in training, and with `quantize: after` nothing is quantized then",
                where=f"quantizer.{acting[0]}",
                remedy="remove it, or use `quantize: before`",
            )
        if self.schedule != "constant" and train.select == "best":
            raise OptionError(
                f"the best weights on validation may come from before the {self.schedule} schedule is through, and training may "
                "stop there",
                where="train.select",
                remedy="use `select: last`, without early stopping, or `schedule: constant`",
            )

    def tensors(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        check_group_size(d_in, self.group_size)
        statistic = ((d_out, d_in // self.group_size), torch.float32)
        codes = ((-(-BITS[self.type] * d_out * d_in // 8),), torch.uint8)
        return [codes, statistic] if self.type in BOOKS else [codes, statistic, statistic]

    def kept(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        return [] if self.schedule == "constant" else [((d_out, d_in), torch.float32)]

    def quantize(self, layer: nn.Linear) -> QuantizedLinear:
        keep = self.schedule != "constant"
        return PackedLinear.of(layer, self.group_size, self.type, keep=keep, bounds=self.bounds)

    def error_bound(self, weight: torch.Tensor) -> torch.Tensor:
        """Half of the distance between neighbouring values, the largest there is in a code book."""
        grouped = weight.unflatten(1, (-1, self.group_size))
        if self.type in BOOKS:
            bound = grouped.abs().amax(-1) * half_gap(self.type)
        else:
            bound = (grouped.amax(-1) - grouped.amin(-1)) / (2 ** BITS[self.type] - 1) / 2
        return bound.repeat_interleave(self.group_size, dim=1) + 1e-6 * weight.abs().amax()

    def ramp(self, total: int) -> Ramp:
        """rho of a run of ``total`` steps."""
        if self.schedule == "constant":
            return Ramp(0.0, 0.0, lambda x: 1.0)
        t0, t1 = self.phase
        shape = (lambda x: x) if self.schedule == "linear" else (lambda x: (1 - math.cos(math.pi * x)) / 2)
        return Ramp(float(share_of(t0, total - 1)), float(share_of(t1, total - 1)), shape)

    def hook(self, adapted) -> TrainingHook:
        return QuantizationHook(self, adapted)
