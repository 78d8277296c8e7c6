"""HQQ: group-wise integers whose zero points are fitted to the weights, without any data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from peftlab.errors import OptionError
from peftlab.nn.groups import BITS, GroupKind, Groups, check_group_size, quantize_groups
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import QuantizedLinear, take_place
from peftlab.nn.weight_error import WeightError
from peftlab.quantizers._schedule import QuantizationHook, Ramp
from peftlab.quantizers.contract import OnWeights, Quantizer

#: of the official code (mobiusml/hqq): |x|^p of the residual, the first weight of the quadratic term, and its growth
_P, _BETA, _GROWTH = 0.7, 10.0, 1.01
#: how far a zero point may move from that of minimum and maximum: less than a half keeps both ends of the codes in use
_FARTHEST = 0.499


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hqq(Quantizer):
    """W~ = a (q - b) per group, with b fitted by half-quadratic splitting (Badri & Shaji 2023, HQQ); calibration-free.

    q in 0 ... Q = 2^bits - 1 and a = (max - min)/Q as of ``groupwise``. For b, |e|^p + (beta/2) |W - W~ - e|^2, p = 0.7, is
    made smaller by turns, beta = 10 growing by 1 % each time:

        e <- sign(x) max(0, |x| - |x|^(p-1)/beta) of x = W - W~,    b <- mean over the group of q - (W - e)/a

    Of the zero points met, the start included, each group takes the one with the least squared error, so that no group is further
    off than with ``groupwise``. b moves by less than 1/2, so that |W - W~| <= a/2 for every weight. (The official code stops for
    a whole matrix at once, when its mean error rises, and has no such limit.)

    Stored as by ``groupwise``: bits + 64/g bits per parameter, statistics in float32. An update that is constant in each group
    merges into b: adapter ``pooled`` on this is QA-LoRA with fitted zero points.
    """

    name: ClassVar[str] = "hqq"
    citation: ClassVar[str] = """@misc{badri2023hqq,
  title = {Half-Quadratic Quantization of Large Machine Learning Models},
  author = {Badri, Hicham and Shaji, Appu}, year = {2023},
  url = {https://mobiusml.github.io/hqq_blog/}
}"""

    bits: Literal[2, 3, 4, 8] = 4
    group_size: int = 64  #: g, inputs that share a scale and a zero point; must divide d_in of every layer
    iterations: int = 20  #: turns of the fit; 0 is ``groupwise``
    bounds: bool = True  #: record what share of the error an update of the adapter's rank could cancel

    def __post_init__(self) -> None:
        for option, least in (("group_size", 1), ("iterations", 0)):
            value = getattr(self, option)
            if value < least:
                raise OptionError(f"must be at least {least}, got {value}", where=option, remedy="remove it for the default")

    @property
    def kind(self) -> GroupKind:
        """How it is packed."""
        return f"int{self.bits}"  # pyright: ignore

    @property
    def scheme(self) -> str:
        return f"hqq-int{self.bits}-g{self.group_size}"

    @property
    def shared_inputs(self) -> int:
        return self.group_size

    @property
    def scale_updates(self) -> bool:
        """There is no schedule that updates would be scaled with."""
        return False

    def refuse(self, device: str) -> str | None:
        return None  # plain torch operations

    def tensors(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        check_group_size(d_in, self.group_size)
        statistic = ((d_out, d_in // self.group_size), torch.float32)
        return [((-(-self.bits * d_out * d_in // 8),), torch.uint8), statistic, statistic]

    def quantize(self, layer: nn.Linear) -> QuantizedLinear:
        weight = layer.weight.detach()
        groups = fit_zero_points(weight, quantize_groups(weight, self.group_size, self.kind), self.iterations)
        error = WeightError.of(weight, groups.dequantize(), self.group_size, bounds=self.bounds)
        made = PackedLinear(groups, layer.bias, error)
        made.scheme = self.scheme
        return take_place(made, layer)

    def error_bound(self, weight: torch.Tensor) -> torch.Tensor:
        """a/2, half of the distance between neighbouring values."""
        grouped = weight.unflatten(1, (-1, self.group_size))
        bound = (grouped.amax(-1) - grouped.amin(-1)) / (2**self.bits - 1) / 2
        return bound.repeat_interleave(self.group_size, dim=1) + 1e-6 * weight.abs().amax()

    def ramp(self, total: int) -> Ramp:
        """The stored weights are used from the first step on."""
        return Ramp(0.0, 0.0, lambda x: 1.0)

    def hook(self, adapted: OnWeights) -> TrainingHook:
        return QuantizationHook(self, adapted)


@torch.no_grad()
def fit_zero_points(weight: torch.Tensor, groups: Groups, iterations: int) -> Groups:
    """The same scales with other zero points, and the codes that are nearest with them.

    Args:
        weight: W [d_out, d_in].
        groups: of integers, zero points at minimum and maximum.
    """
    assert groups.shift is not None
    highest = 2 ** BITS[groups.kind] - 1
    grouped = weight.float().view(*groups.scale.shape, -1)  # [d_out, L, g]
    scale, first = groups.scale.unsqueeze(-1), groups.shift.unsqueeze(-1)  # [d_out, L, 1]
    ideal = grouped / scale
    shift = best = first
    least = torch.full_like(first, torch.inf)
    beta = _BETA
    for turn in range(iterations + 1):
        codes = (ideal + shift).round_().clamp_(0, highest)
        residual = grouped - scale * (codes - shift)
        squared = residual.square().sum(-1, keepdim=True)
        best, least = torch.where(squared < least, shift, best), torch.minimum(squared, least)
        if turn == iterations:
            break
        size = residual.abs()
        sparse = residual.sign() * (size - size.pow(_P - 1) / beta).clamp_min_(0)
        shift = (codes - (grouped - sparse) / scale).mean(-1, keepdim=True)
        shift = torch.clamp(shift, first - _FARTHEST, first + _FARTHEST)
        beta *= _GROWTH
    codes = (ideal + best).round_().clamp_(0, highest)
    return Groups(groups.kind, codes.to(torch.uint8).view(weight.shape), groups.scale, best.squeeze(-1).contiguous())
