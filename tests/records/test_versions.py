"""Which programs made the runs of a study, told where they differ."""

from __future__ import annotations

from typing import Any

from peftlab.records.environment import environment
from peftlab.records.versions import continued, continued_with, mixed, programs


def made_with(torch: str = "2.14.1", commit: str = "", dirty: bool = False, **more: Any) -> dict[str, Any]:
    git = {"commit": commit, "dirty": dirty} if commit else {}
    return {"peftlab": "0.1.0", "python": "3.11.7", "packages": {"torch": torch, "left-pad": "1"}, "git": git, **more}


def test_what_can_change_a_number_is_named() -> None:
    found = programs(made_with(commit="0123456789", dirty=True))
    known = {"python": "3.11.7", "peftlab": "0.1.0 at commit 01234567 with changes", "torch": "2.14.1", "processes": "1"}
    assert found == known
    assert programs({"packages": None, "git": 3}) == {"processes": "1"}
    assert {"python", "peftlab", "torch", "numpy"} <= set(programs(environment()))


def test_runs_of_one_version_are_not_worth_a_word() -> None:
    assert mixed([made_with(), made_with(), {}]) == []
    assert mixed([made_with(), made_with(torch="2.13.0"), made_with()]) == [
        "Runs were made with different versions of torch: 2.13.0 (1 run), 2.14.1 (2 runs)."
    ]
    assert mixed([made_with(), made_with(processes=1), made_with(processes=4)]) == [
        "Runs had different numbers of processes, so that times and memory do not compare: 1 (2 runs), 4 (1 run)."
    ]


def test_a_run_remembers_the_programs_of_all_its_lives() -> None:
    lives = [made_with(torch="2.12.0"), made_with(torch="2.13.0"), made_with(torch="2.13.0"), made_with()]
    environment = lives[0]
    for life in lives[1:]:
        environment = continued(environment, life)
    assert environment["packages"]["torch"] == "2.14.1"
    assert continued_with(environment) == ["torch 2.12.0 -> 2.14.1", "torch 2.13.0 -> 2.14.1"]


def test_a_run_that_goes_on_as_it_began_has_nothing_to_say() -> None:
    assert continued(made_with(commit="a" * 40), made_with(commit="a" * 40)) == made_with(commit="a" * 40)
    assert continued_with(made_with()) == []


def test_what_damaged_records_hold_is_passed_over() -> None:
    assert continued_with(continued(made_with(earlier=["x", None, 3]), made_with())) == []
