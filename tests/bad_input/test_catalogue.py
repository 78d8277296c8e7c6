"""Every mistake of the catalogue gets its one message: what is wrong, where, what to do, and the right exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_input.case import Case, made, run
from tests.bad_input.catalogue import SECTIONS
from tests.bad_input.laws import broken
from tests.bad_input.page import FILE, compared, entry, kept
from tests.bad_input.world import make_world

CASES = [case for cases in SECTIONS.values() for case in cases]
KEPT = kept(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), cache)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_gets_its_message(case: Case, tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> None:
    made(case, tmp_path, request.getfixturevalue("world") if case.of_world else None)
    said = run(case, tmp_path, cache)
    assert not broken(case, said), said.error
    if not case.words:
        assert entry(case, said) == KEPT[case.name], "read it; `python tools/bad_input.py --keep` keeps it"


def test_the_page_has_every_case_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert set(KEPT) == {case.name for case in compared(CASES)}
