"""What tests of the page share."""

from __future__ import annotations

import pytest

from peftlab.report import build, drawing


@pytest.fixture
def only_drawn_by_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_two(monkeypatch)


def draw_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two figures alone: the others have tests of their own, and take seconds each."""
    found = {name: cls for name, cls in drawing.components("figure").items() if getattr(cls, "panels", ())}
    assert set(found) == {"accuracy_vs_parameters", "pareto"}
    monkeypatch.setattr(drawing, "components", lambda _: found)
    monkeypatch.setattr(build, "MANY", 10**6)  # another process would draw them all
