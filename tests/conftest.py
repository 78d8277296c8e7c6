"""For all tests: hypothesis without deadlines (machines differ), the same examples on every run; Ray's token before Ray."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.execution.clusters import VARIABLES

settings.register_profile("peftlab", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("peftlab")
#: Ray reads them once, when a process first imports it, and that may be in a test of something else (what `doctor` says)
os.environ.update(VARIABLES)
