"""For all tests: hypothesis without deadlines (machines differ), the same examples on every run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("peftlab", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("peftlab")
