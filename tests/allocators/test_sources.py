"""Who gave the idea: a paper, or the docstring says that it is our own."""

from __future__ import annotations

import inspect

import pytest

from peftlab.api.listing import sources
from peftlab.registry import OWN, component, components

EVERY = [(kind, name) for kind in ("allocator", "importance") for name in components(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_source_is_named(kind: str, name: str) -> None:
    cls = component(kind, name)
    said = inspect.getdoc(cls) or ""
    (line,) = sources(cls.citation)
    assert (cls.citation == OWN) == line.startswith("The peftlab engineers")
    assert ("of our own" if cls.citation == OWN else line.split(" ")[0]) in said
