"""Probes are tested on the tiny trainer of the training tests."""

from tests.training.conftest import cache, lab, tiny_backbone

__all__ = ["cache", "lab", "tiny_backbone"]
