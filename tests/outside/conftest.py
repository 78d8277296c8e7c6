"""The tiny backbone and the laboratory of the training tests, the finished runs of the api's."""

from __future__ import annotations

from tests.api.conftest import pictures, trained, trained_timm
from tests.training.conftest import cache, lab, tiny_backbone

__all__ = ["cache", "lab", "pictures", "tiny_backbone", "trained", "trained_timm"]
