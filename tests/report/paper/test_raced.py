"""A paper about a race says so wherever a reader would take the number of seeds as fixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftlab.report.paper.numbers import plain, read_numbers
from tests.report.conftest import draw_two
from tests.report.paper.conftest import SMALL, again, make

SEEDS = list(range(6))
LABELS = ["full", "bitfit", "lora[rank=2]", "lora[rank=8]"]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `run` leaves it: one arm left after three of six seeds. Its texts are looked at, and two of its figures drawn."""
    search = {"method": "racing", "goal": "margin", "minimum": 3, "futility": 0.1}
    spared = tuple(("lora[rank=2]", seed) for seed in SEEDS[3:])
    folder = make(tmp_path_factory.mktemp("raced"), {**SMALL, "seeds": SEEDS, "search": search}, skip=spared)
    left = {"label": "lora[rank=2]", "seeds": 3, "why": "within", "against": "full", "difference": -0.01, "sd": 0.003,
            "e_value": 200.0, "p": 0.005, "p_adjusted": 0.03}  # fmt: skip
    heat = {
        "task": "image-classification:digits", "backbone": SMALL["backbone"], "task_spec": SMALL["task"], "seeds": SEEDS,
        "rule": {"level": 0.05, "minimum": 3}, "family": 6, "earliest": 3, "over": True, "left": [left],
        "arms": [{"label": name, "left": name == LABELS[2], "seeds": 3 if name == LABELS[2] else 6} for name in LABELS],
        "runs": {"planned": 24, "needed": 21}, "sentences": ["lora[rank=2] left after 3 of 6 seeds."],
    }  # fmt: skip
    (folder / "racing.json").write_text(json.dumps({"metric": "accuracy", "goal": "margin", "heats": [heat]}))
    with pytest.MonkeyPatch.context() as patch:
        draw_two(patch)
        assert not again(folder).warnings
    return folder / "paper"


def section(paper: Path, name: str) -> str:
    return " ".join((paper / "sections" / f"{name}.tex").read_text(encoding="utf-8").split())


def test_the_protocol_gives_the_rule(raced: Path) -> None:
    told = {key: plain(value) for key, value in read_numbers((raced / "numbers.tex").read_text(encoding="utf-8")).items()}
    assert (told["race.family"], told["race.level"], told["race.minimum"], told["race.earliest"]) == ("6", "0.05", "3", "3")
    assert "within 3 % of the baseline" in told["race.goal"] and "below 10 %" in told["race.futility"]
    assert (told["race.planned"], told["race.spared"]) == ("24", "3")
    protocol = section(raced, "protocol")
    for key in ("goal", "minimum", "futility", "family", "level", "earliest", "says.1", "says.2"):
        assert rf"\result{{race.{key}}}" in protocol, key
    assert r"\citep{wang2024anytime}" in protocol and "student1908probable" not in protocol
    assert "arXiv:2310.03722" in (raced / "references.bib").read_text(encoding="utf-8")


def test_nobody_is_told_of_equal_numbers_of_seeds(raced: Path, paper: Path) -> None:
    for name in ("introduction", "abstract"):
        assert r"at most \result{seeds.count} seeds" in section(raced, name)
        assert "race" not in section(paper, name) and "race" not in section(paper, "protocol")
    assert "at most" not in section(paper, "abstract")
    assert r"with at most \result{seeds.count} seeds" in section(paper, "introduction")  # a run failed there


def test_the_checklist_says_that_test_values_decided(raced: Path, paper: Path) -> None:
    question = r"\entry{Was the test split kept for the end?}"
    assert rf"{question}\emph{{Partly.}}" in section(raced, "checklist")
    assert rf"{question}\emph{{Yes.}}" in section(paper, "checklist")
    assert r"spared \result{race.spared}" in section(raced, "checklist")
    assert r"the \result{runs.missing}" not in section(raced, "checklist")
    assert section(raced, "checklist").count("anytime-valid") >= 3


@pytest.mark.usefixtures("only_drawn_by_the_page")
def test_where_diverged_runs_stand(tmp_path: Path, paper: Path) -> None:
    assert "counts at chance level." in section(paper, "protocol")
    folder = make(tmp_path, diverged=(("bitfit", 1),))
    for path in folder.glob("runs/*/*/results.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chance": {}}))
    again(folder)
    for name in ("protocol", "checklist", "supplement"):
        assert "at the worst value seen" in section(folder / "paper", name) and "chance level" not in section(
            folder / "paper", name
        )
