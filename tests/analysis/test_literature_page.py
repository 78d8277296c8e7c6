"""docs/literature.md is what its tool writes; the studies that it names exist and use the methods of their rows."""

from __future__ import annotations

import importlib.util
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import pytest

from peftlab.analysis.literature import Row, literature
from peftlab.registry import component
from peftlab.study.expand import cells
from peftlab.study.load import load_study

ROOT = Path(__file__).parents[2]
SLOW = ("errors", "memory", "parameters")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("literature_page", ROOT / "tools" / "literature_page.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ("bits", *SLOW, "studies", "results")],
)
def test_the_page_is_current(tool: ModuleType, name: str) -> None:
    page = (ROOT / "docs" / "literature.md").read_text(encoding="utf-8")
    assert tool.section(name) in page, "run `python tools/literature_page.py`"
    assert page.count("\n## ") == len(tool.TABLES)


ROWS = [row for row in literature()[0] if row.study]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.study}-{r.arm}-{r.data}")
def test_studies_of_published_results(row: Row) -> None:
    study = load_study(ROOT / "studies" / f"{row.study}.yaml")
    found = [
        cell
        for cell in cells(study)
        if cell.label == row.arm and any(fnmatchcase(str(cell.task["data"]), pattern) for pattern in row.same["data"])
    ]
    assert len(found) == 1 and study.analysis.metric == row.metric
    options = {key: value for key, value in found[0].adapter.items() if key != "name"}
    adapter = component("adapter", found[0].adapter["name"])(**options)
    how = {"adapter": adapter.spec(), "allocator": found[0].allocator, "quantizer": found[0].quantizer}
    assert row.is_family_of(found[0].task, how)


def test_some_published_results_have_a_study() -> None:
    assert len(ROWS) >= 6 and all(row.arm for row in ROWS)
