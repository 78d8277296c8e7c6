"""LoRA-XS: an r x r matrix is trained between frozen factors, the leading singular directions of the weight itself."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn

from peftlab.adapters._own_low_rank import OwnLowRank, low_rank_layers
from peftlab.adapters.contract import Adapted
from peftlab.nn.low_rank_layer import LowRankLinear
from peftlab.nn.parts import Part
from peftlab.nn.quantized import dense_weight
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoraXs(OwnLowRank):
    """h = W0 x + s B R A x, only R [r, r] trained; A = S_r V_r^T, B = U_r of W0 = U S V^T (Balazy et al. 2024, section 3).

    A [r, d_in] and B [d_out, r] are frozen buffers; the singular values are on the side of the input, as in the official code.
    Trainable parameters: sum over sites of r^2, whatever the size of the layer, so that ranks can be far higher than LoRA's.
    R starts at zero, where the official code draws N(0, 10^-10): the gradient of R, s B^T (dL/dh) (A x)^T, does not vanish
    there, and the start is exactly the backbone's.

    On a quantized base the directions are those of the weights that it multiplies with. Saved as an ordinary LoRA of rank r with
    A and B R, which needs no decomposition to be loaded.
    """

    name: ClassVar[str] = "lora-xs"
    citation: ClassVar[str] = """@misc{balazy2024loraxs,
  title = {{LoRA-XS}: Low-Rank Adaptation with Extremely Small Number of Parameters},
  author = {Bałazy, Klaudia and Banaei, Mohammadreza and Aberer, Karl and Tabor, Jacek},
  year = {2024}, eprint = {2405.17604}, archivePrefix = {arXiv}
}"""

    rank: int = 16

    def cost(self, site: Site, rank: int) -> int:
        return rank * rank

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        """R as one matrix: its rows mix all directions, so that none of them has a weight of its own."""
        layers = low_rank_layers(adapted)
        return {
            site.name: Part(tensors=((layers[site.name].R, None),), d_in=site.d_in, d_out=site.d_out, scale=self.scale)  # pyright: ignore
            for site in adapted.sites
        }

    def layer(self, base: nn.Module, site: Site, rank: int, random: torch.Generator) -> LowRankLinear:
        return BetweenDirections(base, rank, self.scale, self.dropout)


class BetweenDirections(LowRankLinear):
    """y = base(x) + s B R A dropout(x), with R [r, r] zero between the r leading singular directions of the base's weight.

    Signs, which a decomposition leaves open, are those that make the largest entry of every row of V^T positive: a run that is
    continued on another machine finds the same A and B.
    """

    A: torch.Tensor
    B: torch.Tensor

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, scale, dropout)
        weight = dense_weight(base).float()
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
        largest = right.gather(1, right.abs().argmax(dim=1, keepdim=True))  # [r, 1]
        signs = torch.where(largest < 0, -torch.ones_like(largest), torch.ones_like(largest))
        self.register_buffer("A", (values[:, None] * right * signs).contiguous())
        self.register_buffer("B", (left * signs.T).contiguous())
        self.R = nn.Parameter(torch.zeros(rank, rank, device=weight.device))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.A, self.B @ self.R
