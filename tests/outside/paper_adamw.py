"""AdamW (Loshchilov and Hutter 2019, algorithm 2) written out in float64, for methods written from their papers."""

import math

import torch
from torch import Tensor


class PaperAdamW:
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= rate * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * w)."""

    def __init__(self, weights: dict[str, Tensor], *, decay: dict[str, float], betas: tuple[float, float], eps: float) -> None:
        self.weights, self.decay, self.betas, self.eps = weights, decay, betas, eps
        self.first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.step_number = 0

    def step(self, gradients: dict[str, Tensor], rate: float) -> None:
        """One update of every weight, in place."""
        self.step_number += 1
        b1, b2 = self.betas
        for name, weight in self.weights.items():
            gradient = gradients[name]
            self.first[name] = b1 * self.first[name] + (1 - b1) * gradient
            self.second[name] = b2 * self.second[name] + (1 - b2) * gradient * gradient
            m = self.first[name] / (1 - b1**self.step_number)
            v = self.second[name] / (1 - b2**self.step_number)
            with torch.no_grad():
                weight -= rate * (m / (v.sqrt() + self.eps) + self.decay[name] * weight)


def clip(gradients: dict[str, Tensor], most: float | None) -> dict[str, Tensor]:
    """All gradients together scaled down to a Euclidean norm of at most `most` (Pascanu et al. 2013)."""
    if most is None:
        return gradients
    norm = math.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients.values()))
    return {name: gradient * min(1.0, most / norm) for name, gradient in gradients.items()} if norm else gradients
