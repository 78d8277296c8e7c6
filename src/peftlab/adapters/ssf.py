"""SSF: scaling and shifting features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from peftlab.adapters._inserted import Insert, Inserting, insert_after
from peftlab.adapters._norms import norms
from peftlab.backbones.contract import Backbone
from peftlab.nn.roles import Site, select


class _ScaleShift(Insert):
    """y * scale + shift along the channel axis: the last one, or [batch, d, height, width]'s second after a convolution."""

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor | None, images: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.shift = nn.Parameter(shift) if shift is not None else None
        self.images = images

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        shape = (-1, 1, 1) if self.images else (-1,)
        scaled = output * self.scale.view(shape)
        return scaled if self.shift is None else scaled + self.shift.view(shape)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ssf(Inserting):
    """y <- gamma * y + beta after patch embedding, norms and the blocks' linear layers (Lian et al. 2022, section 3.2).

    gamma, beta [d_out], per channel; a fused qkv has 3 d of each. merge: W' = diag(gamma) W, b' = gamma * b + beta, exact;
    a norm's scale and bias likewise. A layer without a bias gets no beta, for there is nothing to merge it into.
    Trainable parameters: 2 d_out per layer (d_out without a bias). ViT-B/16: 2 (12 (d + 3d + d + d + 4d + d) + d + d) = 205,824.
    """

    name: ClassVar[str] = "ssf"
    citation: ClassVar[str] = """@inproceedings{lian2022ssf,
  title = {Scaling \\& Shifting Your Features: A New Baseline for Efficient Model Tuning},
  author = {Lian, Dongze and Zhou, Daquan and Feng, Jiashi and Wang, Xinchao},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2022}, volume = {35}, pages = {109--123}
}"""

    #: identity: gamma = 1, beta = 0; normal, the released code's: gamma ~ N(1, 0.02^2), beta ~ N(0, 0.02^2), which acts at once
    init: Literal["identity", "normal"] = "identity"

    @property
    def zero_at_start(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.init == "identity"

    def sites(self, backbone: Backbone) -> list[Site]:
        """The linear layers of the blocks, fused ones whole."""
        select(backbone.roles, "all-linear", where="adapter")  # says so where there are no blocks
        return [site for site in backbone.roles.sites if site.block is not None and site.parent is None]

    def _layers(self, backbone: Backbone, sites: Sequence[Site]) -> dict[str, int]:
        """Layer name -> d_out."""
        patches = {
            name: module.out_channels
            for name, module in backbone.module.named_modules()
            if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size and not backbone.in_head(name + ".")
        }
        return {
            **patches,
            **{site.name: site.d_out for site in sites},
            **{name: module.get_parameter("weight").numel() for name, module in norms(backbone)},
        }

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        layers = self._layers(backbone, sites)
        return sum((1 + _has_bias(backbone.module.get_submodule(name))) * d_out for name, d_out in layers.items())

    def insert(self, backbone: Backbone, random: torch.Generator) -> None:
        spread = 0.02 if self.init == "normal" else 0.0
        for name, d_out in self._layers(backbone, self.sites(backbone)).items():
            layer = backbone.module.get_submodule(name)
            scale = 1 + spread * torch.randn(d_out, generator=random)
            shift = spread * torch.randn(d_out, generator=random) if _has_bias(layer) else None
            insert_after(layer, _ScaleShift(scale, shift, images=isinstance(layer, nn.Conv2d)))

    def fold(self, layer: Any, insert: Any, model: nn.Module) -> None:
        weight: torch.Tensor = layer.weight
        outputs_last = weight.dim() == 1 or not isinstance(layer, nn.Linear | nn.Conv2d)  # a norm, or GPT-2's Conv1D
        weight.mul_(insert.scale if outputs_last else insert.scale.view(-1, *[1] * (weight.dim() - 1)))
        if insert.shift is not None:
            bias: Any = layer.bias
            bias.mul_(insert.scale).add_(insert.shift)


def _has_bias(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "bias", None), nn.Parameter)
