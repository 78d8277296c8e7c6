"""The accelerator: `make test-gpu`. PEFTLAB_TEST_DEVICE=cpu runs the same on a CPU: do the tests themselves hold?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.conftest import cache, lab, tiny_backbone

__all__ = ["cache", "lab", "tiny_backbone"]

VIT = Path(__file__).parents[3] / "shared/data/weights/vit_tiny_patch16_224"
CIFAR = Path(__file__).parents[3] / "shared/data/images/cifar10"


@pytest.fixture(scope="session")
def device() -> torch.device:
    asked = os.environ.get("PEFTLAB_TEST_DEVICE", "cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(asked)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As the worker sets it (execution/worker.py)."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
