"""For all tests: the same random numbers in whatever order they run, hypothesis without deadlines (machines differ) and with the
same examples on every run; Ray's token before Ray."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

from tests.execution.clusters import VARIABLES

settings.register_profile("peftlab", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("peftlab")
#: Ray reads them once, when a process first imports it, and that may be in a test of something else (what `doctor` says)
os.environ.update(VARIABLES)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Layers that a test makes without a seed of its own are those of every run of it; nothing loads torch for that."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
