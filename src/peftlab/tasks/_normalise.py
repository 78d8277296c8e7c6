"""From uint8 pixels to what a backbone takes: the same arithmetic in training, evaluation and prediction."""

from __future__ import annotations

import numpy as np
import torch

from peftlab.tasks.contract import Preprocessing


class Normalise:
    """(x / 255 - mean) / std per channel, as one multiplication and one addition."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        self._scale = (1 / (255 * std)).float().view(1, 3, 1, 1)
        self._shift = (-mean / std).float().view(1, 3, 1, 1)

    def __call__(self, pixels: torch.Tensor | np.ndarray) -> torch.Tensor:
        """float32 [B, 3, S, S] from uint8 [B, S, S, 3]."""
        pixels = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
        values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return values.mul_(self._scale).add_(self._shift)
