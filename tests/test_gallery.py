"""The gallery shows every figure, with the question that it answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from peftlab.report.drawing import figures
from peftlab.report.figures.contract import Figure
from peftlab.study.load import dump, load_study
from tools import gallery

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.name)
def test_every_figure_is_there(figure: Figure) -> None:
    assert figure.asks.endswith("?")
    assert f"### {figure.title}\n\n**{figure.asks}**\n\n![{figure.title}](gallery/{figure.name}.png)" in PAGE
    with Image.open(DOCS / "gallery" / f"{figure.name}.png") as image:
        assert image.width >= 500


def test_a_study_that_was_run_otherwise_says_so(tmp_path: Path) -> None:
    path = DOCS.parent / "studies" / "digits.yaml"
    for words in ((), ("seeds=[0, 1]", "train.epochs=1")):
        (tmp_path / "study.yaml").write_text(dump(load_study(path, words), words))
        assert gallery.overridden(tmp_path) == " ".join(words)


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) < 3e6


@pytest.mark.parametrize("figure", [figures()[0], figures()[3], figures()[-1]], ids=lambda f: f.name)
def test_one_figure_is_put_in_its_place_without_the_records_of_the_others(figure: Figure) -> None:
    """Taken out of the page and put in again, the page is what it was; put in twice, it is there once."""
    before, rest = PAGE.split(f"### {figure.title}\n", 1)
    text, mark, after = rest.partition("\n##")
    old = f"### {figure.title}\n{text}"
    word = re.search(rf"{figure.name}=results/\S+", PAGE)
    command = word[0] if word else f"{figure.name}=results/digits"
    once = gallery.placed(before.rstrip("\n") + "\n" + mark + after, figure, old, command)
    assert (once == PAGE) == bool(word) and once.replace(f" \\\n    {command}", "") == PAGE.replace(f" \\\n    {command}", "")
    assert gallery.placed(once, figure, old, command) == once
    new = gallery.placed(PAGE, figure, f"### {figure.title}\n\nanother text\n", command)
    assert new.count(f"### {figure.title}\n") == 1 and "another text" in new and old not in new
