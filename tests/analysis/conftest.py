"""Made-up results and what they say, for tests that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.analysis.analyze import analyze
from peftlab.analysis.findings import Findings
from tests.report.fixtures import write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def findings(folder: Path) -> Findings:
    return analyze(folder)
