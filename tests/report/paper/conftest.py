"""A real small study's folder with its report and paper, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab.api.papers import describe
from peftlab.report.paper.build import Written, build_paper
from tests.report.fixtures import STUDY, Options, write_results

SMALL: dict[str, Any] = {
    **STUDY,
    "seeds": [0, 1, 2],
    "arms": {
        "full": {"adapter": "full", "learning_rate": 3e-4},
        "bitfit": {"adapter": "bitfit"},
        "lora": {"adapter": {"name": "lora", "rank": [2, 8], "targets": "standard"}},
    },
}


def make(root: Path, study: dict[str, Any] = SMALL, **options: Any) -> Path:
    """A results folder with records."""
    return write_results(root, Options(study=study, **{"failed": (), "diverged": (), "flags": {}, **options}))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared folder; tests that change something copy it."""
    folder = make(tmp_path_factory.mktemp("paper"), failed=(("bitfit", 1),), diverged=(("lora[rank=2]", 2),))
    build_paper(folder, describe)
    return folder


@pytest.fixture
def paper(folder: Path) -> Path:
    return folder / "paper"


def again(folder: Path) -> Written:
    return build_paper(folder, describe)
