"""A tiny backbone, planned once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peftlab.planning.planner import Planner
from peftlab.study.schema import Study
from tests.contracts.tiny import make
from tests.tuning import studies


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def study(backbone: str) -> Study:
    return studies.study(backbone)


@pytest.fixture(scope="session")
def planner(study: Study, cache: Path) -> Planner:
    return studies.planner(study, cache)
