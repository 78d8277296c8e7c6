"""AdaLoRA (Zhang et al. 2023, arXiv:2303.10512) from the paper alone: one triplet after another, float64, none of peftlab.

The update of a weight is (alpha / r0) P diag(lambda) Q. Where the paper and the code of its authors differ, their code decides
(the orthogonality penalty is an unsquared norm, the budget falls with 1 minus the share of the schedule that has passed).
"""

import dataclasses

import torch
from torch import Tensor

B1 = B2 = 0.85


@dataclasses.dataclass
class Module:
    """P [d_out, r0], lambda [r0] and Q [r0, d_in] of one adapted weight, with the smoothed figures of every entry of each."""

    p: Tensor
    lam: Tensor
    q: Tensor

    def __post_init__(self) -> None:
        self.average = {key: torch.zeros_like(value) for key, value in self.parts().items()}
        self.uncertainty = {key: torch.zeros_like(value) for key, value in self.parts().items()}

    def parts(self) -> dict[str, Tensor]:
        """The three factors under the letters of the paper."""
        return {"P": self.p, "L": self.lam, "Q": self.q}

    def update(self, scale: float) -> Tensor:
        """scale * sum over the triplets of lambda_i P_i Q_i: [d_out, d_in]."""
        return scale * (self.p * self.lam) @ self.q

    def observe(self, gradients: dict[str, Tensor]) -> None:
        """Equations 8 to 10 for every single entry: sensitivity, its running mean, and the running mean of how far it strays."""
        for key, value in self.parts().items():
            weights, grads = value.detach().reshape(-1), gradients[key].reshape(-1)
            mean, stray = self.average[key].view(-1), self.uncertainty[key].view(-1)
            for j in range(weights.numel()):
                sensitivity = abs(float(weights[j]) * float(grads[j]))
                mean[j] = B1 * float(mean[j]) + (1 - B1) * sensitivity
                stray[j] = B2 * float(stray[j]) + (1 - B2) * abs(sensitivity - float(mean[j]))

    def scores(self) -> list[float]:
        """Equation 7 for each triplet: s(lambda_i) plus the means of s over column i of P and over row i of Q."""
        found = []
        for i in range(self.lam.numel()):
            score = float(self.average["L"][i]) * float(self.uncertainty["L"][i])
            rows, columns = self.p.shape[0], self.q.shape[1]
            score += sum(float(self.average["P"][j, i]) * float(self.uncertainty["P"][j, i]) for j in range(rows)) / rows
            score += sum(float(self.average["Q"][i, j]) * float(self.uncertainty["Q"][i, j]) for j in range(columns)) / columns
            found.append(score)
        return found


def budget(t: int, *, first: int, last: int, warmup: int, final: int, total: int) -> int:
    """How many triplets may stay after step t (equation 14 as the authors' code has it)."""
    if t <= warmup:
        return first
    if t > total - final:
        return last
    left = 1 - (t - warmup) / (total - warmup - final)
    return int(last + (first - last) * left**3)


def penalty(modules: list[Module]) -> Tensor:
    """Mean over all P and Q of the Frobenius norm of P^T P - I and Q Q^T - I."""
    norms = []
    for module in modules:
        eye = torch.eye(module.lam.numel(), dtype=module.lam.dtype)
        norms.append((module.p.T @ module.p - eye).pow(2).sum().sqrt())
        norms.append((module.q @ module.q.T - eye).pow(2).sum().sqrt())
    return torch.stack(norms).mean()


def mask(modules: list[Module], keep: int) -> None:
    """Zero the lambda of all triplets whose score is no greater than the k-th smallest, k = all - keep; P and Q stay."""
    scores = [module.scores() for module in modules]
    ordered = sorted(score for of_module in scores for score in of_module)
    surplus = len(ordered) - keep
    if surplus <= 0:
        return
    threshold = ordered[surplus - 1]
    with torch.no_grad():
        for module, of_module in zip(modules, scores, strict=True):
            for i, score in enumerate(of_module):
                if score <= threshold:
                    module.lam[i] = 0.0
