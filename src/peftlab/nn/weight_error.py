"""What quantization did to a weight, and how much of it an update of low rank could undo.

Shape legend: weight [d_out, d_in], g the group size, L = d_in/g groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

RANKS = 64  #: shares are kept up to this rank


@dataclasses.dataclass(frozen=True, slots=True)
class WeightError:
    """E = W - Q(W).

    ``unrestricted[r-1]`` is the largest share of ||E||^2 that an update of rank r can cancel: the energy of the top r singular
    values of E (Eckart & Young 1936). ``pooled[r-1]`` is the same for an update that is constant within each group: it reaches
    only the group means M [d_out, L] of E, where it counts g times, so it is g times that of the top r singular values of M.
    """

    weight: float  #: ||W||, Frobenius
    error: float  #: ||E||
    unrestricted: tuple[float, ...] = ()
    pooled: tuple[float, ...] = ()

    @property
    def relative(self) -> float:
        """e = ||E|| / ||W||; 0 for a matrix of zeros."""
        return self.error / self.weight if self.weight else 0.0

    @classmethod
    def of(cls, weight: torch.Tensor, restored: torch.Tensor, group_size: int, *, bounds: bool = True) -> WeightError:
        """``restored`` is Q(W); ``bounds``: find the shares as well, which takes two eigenvalue problems."""
        error = (weight.detach().float() - restored).cpu()
        norms = float(torch.linalg.vector_norm(weight.detach().float())), float(torch.linalg.vector_norm(error))
        if not bounds or not norms[1]:
            return cls(*norms)
        means = error.unflatten(1, (-1, group_size)).mean(-1)
        return cls(*norms, _shares(error, norms[1] ** 2), _shares(means, norms[1] ** 2 / group_size))


def bound_of(shares: Sequence[float], rank: int) -> float | None:
    """The largest share that an update of ``rank`` (1 or more) can cancel; None where none is kept of a rank so high.

    Fewer than :data:`RANKS` shares are all there are: a higher rank reaches no more than the last of them.
    """
    if rank < 1 or not shares or rank > len(shares) == RANKS:
        return None
    return shares[min(rank, len(shares)) - 1]


def _shares(matrix: torch.Tensor, whole: float) -> tuple[float, ...]:
    """Energy of the top r singular values as a share of ``whole``, for r = 1, 2, ...; by the smaller Gram matrix."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    energy = torch.linalg.eigvalsh(gram.double()).flip(0).clamp_min(0)[:RANKS]
    return tuple((energy.cumsum(0) / whole).clamp_max(1.0).tolist())
