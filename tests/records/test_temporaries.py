"""Names of temporaries: what we make is known again, and what others made is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.records.temporaries import REPLACED, TEMPORARY, beside, is_left_over, parse_name, stands_in

characters = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
names = st.text(characters, min_size=1).filter(lambda name: name not in (".", ".."))


@given(names, st.sampled_from([TEMPORARY, REPLACED]))
def test_a_name_of_ours_says_of_what_it_is(name: str, kind: str) -> None:
    made = beside(Path("folder") / name, kind)
    assert made.parent == Path("folder") and parse_name(made.name) == (name, kind)


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "step-8.tmp-01234567",  # not hidden
        ".step-8.tmp-0123456",  # seven characters
        ".step-8.old-012345678",  # nine
        ".tmp-01234567",
        "..tmp-01234567",  # of nothing
        ".step-8.new-01234567",
        "step.tmp-01234567.tmp-",
    ],
)
def test_a_name_of_others_is_itself(name: str) -> None:
    assert parse_name(name) == (name, "") and not is_left_over(name)


def test_what_is_replaced_stands_in_until_its_successor_is_there(tmp_path: Path) -> None:
    old, half = beside(tmp_path / "step-2", REPLACED), beside(tmp_path / "step-2", TEMPORARY)
    assert stands_in(old) and not stands_in(half)
    (tmp_path / "step-2").mkdir()
    assert not stands_in(old)
    assert not stands_in(tmp_path / "step-4"), "what is no temporary stands in for nothing"
