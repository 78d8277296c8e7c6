"""A linear layer of ours with an update s B A, whatever its two factors are computed from.

Shape legend: d_in, d_out of the layer, r the rank of its update.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from peftlab.nn.wrapped import WrappedLinear


class LowRankLinear(WrappedLinear):
    """y = base(x) + s B A dropout(x), with A [r, d_in] and B [d_out, r] of :meth:`factors`.

    A subclass makes its parameters, and buffers of what is frozen, in ``__init__`` and says in :meth:`factors` how A and B
    follow from them; merging, exporting and the fused form (nn/fused_layers.py) follow from that.
    """

    def __init__(self, base: nn.Module, scale: float, dropout: float) -> None:
        super().__init__()
        self.base_layer = base
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) as they are now, of one floating type; gradients flow through them to what is trained."""

    @property
    def plain_only(self) -> str:
        """Why the update has to be computed by :meth:`adapt` just now; empty where A and B say it all."""
        return ""

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """s B A dropout(x)."""
        down, up = self.factors()
        return self.scale * F.linear(F.linear(self.dropout(x.to(down.dtype)), down), up)

    def exported(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) to save and merge, without gradient; directions without effect may be left out."""
        down, up = self.factors()
        return down.detach().contiguous(), up.detach().contiguous()

    def merged(self) -> nn.Module:
        """A copy of the base layer, in float, with the update folded in."""
        down, up = self.exported()
        return self.with_update(self.scale * (up @ down))
