"""The trained tensors of one module, as whatever measures its importance or its rank sees them.

Shape legend: r directions of a module.
"""

from __future__ import annotations

import dataclasses
import math

import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A module as a metric of importance sees it.

    ``tensors``: its weights, each with the dimension that counts rank-1 directions, or None where it has none. Of a LoRA module:
    (A, 0), (B, 1); of a module of the base: (W, None). Gradients are theirs (``.grad``). ``scale``: factor of the update B A.
    ``taken_out``: (A0, B0) that the module began with and whose s B0 A0 its frozen weight gave up (PiSSA, OLoRA), if so.
    """

    tensors: tuple[tuple[torch.Tensor, int | None], ...]
    d_in: int
    d_out: int
    scale: float = 1.0
    taken_out: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def directions(self) -> int:
        """r; 0 where there are no directions."""
        return next((tensor.shape[dim] for tensor, dim in self.tensors if dim is not None), 0)

    @property
    def switched_on(self) -> int:
        """Directions that no tensor [r, 1] multiplies by zero."""
        gates = [tensor.detach().flatten() != 0 for tensor, dim in self.tensors if dim == 0 and tensor[0].numel() == 1]
        return int(torch.stack(gates).all(dim=0).sum()) if gates else self.directions

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A [r, d_in], B [d_out, r]) as they are, without gradient; a tensor [r, 1] in between counts to A."""
        up = next(tensor.detach() for tensor, dim in self.tensors if dim == 1)
        down = math.prod((tensor.detach() for tensor, dim in self.tensors if dim == 0), start=up.new_ones(()))
        return down, up

    def update_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) of what training changed in the module, s B A; of up to 2 r directions where a part was taken out of its weight.

        s (B A - B0 A0) then, as [B - B0, B0] and [A; A - A0]: exactly zero before the first step, and no difference of large
        numbers after it. Of two ranks, where one changed, the smaller is filled up with zeros.
        """
        down, up = self.factors()
        if self.taken_out is None:
            return down, up
        size = max(len(down), len(self.taken_out[0]))
        down0, down = (_filled(tensor, size) for tensor in (self.taken_out[0], down))
        up0, up = (_filled(tensor.T, size).T for tensor in (self.taken_out[1], up))
        return torch.cat([down, down - down0]), torch.cat([up - up0, up0], dim=1)

    def per_weight(self, norms: torch.Tensor) -> torch.Tensor:
        """Frobenius norms of updates as the root mean square change of one weight of the module."""
        return self.scale * norms / math.sqrt(self.d_in * self.d_out)


def _filled(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), tensor.shape[1])])
