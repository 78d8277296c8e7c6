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
    """

    tensors: tuple[tuple[torch.Tensor, int | None], ...]
    d_in: int
    d_out: int
    scale: float = 1.0

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
        """(A [r, d_in], B [d_out, r]) of the update s B A, without gradient; a tensor [r, 1] in between counts to A."""
        up = next(tensor.detach() for tensor, dim in self.tensors if dim == 1)
        down = math.prod((tensor.detach() for tensor, dim in self.tensors if dim == 0), start=up.new_ones(()))
        return down, up

    def per_weight(self, norms: torch.Tensor) -> torch.Tensor:
        """Frobenius norms of updates as the root mean square change of one weight of the module."""
        return self.scale * norms / math.sqrt(self.d_in * self.d_out)
