"""The tiny backbone and the laboratory of the training tests."""

from __future__ import annotations

from tests.training.conftest import cache, lab, tiny_backbone

__all__ = ["cache", "lab", "tiny_backbone"]
