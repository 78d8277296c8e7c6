"""The gallery shows every figure, with the question that it answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from peftlab.report.drawing import figures
from peftlab.report.figures.contract import Figure

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.name)
def test_every_figure_is_there(figure: Figure) -> None:
    assert figure.asks.endswith("?")
    assert f"### {figure.title}\n\n**{figure.asks}**\n\n![{figure.title}](gallery/{figure.name}.png)" in PAGE
    with Image.open(DOCS / "gallery" / f"{figure.name}.png") as image:
        assert image.width >= 500


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) < 3e6
