"""What is tuned of each arm, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import OptionError, PeftlabError, StudyError
from peftlab.planning.plan import Plan, PlanOptions
from peftlab.planning.planner import Planner
from peftlab.planning.search import Key, Search, grid, middle, probes, space_of, whole_numbers
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.schema import Range, Study
from tests.contracts.tiny import make

RATE = {"low": 1e-4, "high": 1e-2, "log": True}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


def study(backbone: str = "b", arms: Any = None, tune: Any = None, **changes: Any) -> Study:
    return validate_study(
        {
            "study": "tiny",
            "backbone": backbone,
            "task": {"kind": "image-classification", "data": "digits"},
            "seeds": [0],
            "train": {"epochs": 1},
            "arms": arms or {"full": {"adapter": "full"}, "lora": {"adapter": "lora"}},
            "tune": {"sampler": "random", "trials": 5, "seeds": [100, 101], "learning_rate": RATE, **(tune or {})},
            **changes,
        }
    )


def planned(backbone: str, cache: Path, drawn: Any = None, **asked: Any) -> Plan:
    return Planner(study(backbone, **asked), PlanOptions(cache=cache, predict=False, device="cpu")).plan(drawn)


def spaces(asked: Study) -> dict[str, Any]:
    assert asked.tune is not None
    return {cell.label: space_of(cell, asked.tune, cells(asked)) for cell in cells(asked)}


def test_an_arm_is_searched_over_what_it_has() -> None:
    found = spaces(study(tune={"adapter.rank": {"low": 2, "high": 8}, "adapter.alpha": {"low": 1, "high": 32}}))
    assert found["full"] == ({"learning_rate": Range(**RATE)}, ("adapter.rank", "adapter.alpha"))
    space, lacks = found["lora"]
    assert lacks == () and space["adapter.rank"].whole and not space["adapter.alpha"].whole, "alpha takes fractions"


@pytest.mark.parametrize(
    ("changes", "what", "where"),
    [
        ({"tune": {"adapter.rang": [2, 4]}}, "no adapter of the study has an option 'rang'", "tune.adapter.rang"),
        (
            {"tune": {"adapter.targets": {"low": 1, "high": 2}}},
            "adapter.targets of lora takes no such numbers",
            "tune.adapter.targets",
        ),
        ({"tune": {"adapter.rank": {"low": 1.5, "high": 8}}}, "adapter.rank of lora takes no such", "tune.adapter.rank"),
        (
            {"arms": {"lora": {"adapter": {"name": "lora", "rank": [2, 4]}}}, "tune": {"adapter.rank": [4, 8]}},
            "the arm lists values of adapter.rank",
            "arms.lora.adapter.rank",
        ),
        (
            {"tune": {"sampler": "grid", "trials": None, "learning_rate": [1e-3, 1e-2], "adapter.rank": [4, 8]}},
            "a grid would give it fewer trials than the others",
            "tune.adapter.rank",
        ),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(changes: Any, what: str, where: str) -> None:
    with pytest.raises(StudyError) as caught:
        spaces(study(**changes))
    assert what in caught.value.what and caught.value.where == where and caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tune": {"adapter.rank": {"low": 1, "high": 4096}}}, r"lora with .*adapter.rank \d+: rank \d+ is above"),
        ({"tune": {"adapter.rank": {"low": 0, "high": 4}}}, "lora with .*adapter.rank 0: rank must be at least 1"),
        ({"tune": {"adapter.init": ["kaiming", "svd"]}}, "lora with .*adapter.init svd"),
        ({"tune": {"learning_rate": {"low": -1, "high": 1}}}, "above 0"),
        ({"tune": {"batch_size": {"low": 8, "high": 64}}, "train": {"effective_batch_size": 64}}, "not a multiple of"),
    ],
)
def test_a_value_that_an_arm_cannot_take_is_refused_before_anything_runs(
    changes: Any, what: str, backbone: str, cache: Path
) -> None:
    with pytest.raises(PeftlabError, match=what):
        planned(backbone, cache, **changes)


def test_a_budget_cannot_match_an_arm_whose_parameters_the_tuning_decides(backbone: str, cache: Path) -> None:
    other = {"adapter": "lora", "allocator": {"name": "linear-decay", "budget": "match lora"}}
    arms = {"lora": {"adapter": {"name": "lora", "rank": 4}}, "decay": {**other}}
    with pytest.raises(OptionError, match="parameters of 'lora' are not known before its rank is tuned"):
        planned(backbone, cache, arms=arms, tune={"adapter.rank": {"low": 2, "high": 4}})
    assert len(planned(backbone, cache, arms=arms, tune={"adapter.alpha": {"low": 2, "high": 8}}).runs) == 2


def test_an_arm_is_refused_when_a_value_takes_it_over_the_share_that_is_required(backbone: str, cache: Path) -> None:
    alone = planned(backbone, cache, arms={"lora": {"adapter": {"name": "lora", "rank": 4}}}, tune=None).runs[0]
    limit = 100 * alone.trainable / alone.total_parameters + 0.1
    tune = {"adapter.rank": {"low": 2, "high": 8}}
    plan = planned(backbone, cache, tune=tune, require={"trainable_percent": limit})
    refused = {run.label: run.refusal for run in plan.runs if run.refusal}
    assert refused.keys() == {"lora"} and "trains" in str(refused["lora"])
    assert [search.key[0] for search in plan.searches] == ["full"]
    tune = {"adapter.rank": {"low": 2, "high": 4}}  # rank 8, which the file means by leaving it out, is never used
    assert not planned(backbone, cache, tune=tune, require={"trainable_percent": limit}).refusals


def test_the_plan_holds_every_trial_of_every_arm_with_its_time(backbone: str, cache: Path) -> None:
    task = "image-classification:digits"
    drawn = {Key("lora", backbone, task): [{"learning_rate": 1e-3, "adapter.rank": rank} for rank in (2, 3)]}
    asked = study(backbone, tune={"adapter.rank": {"low": 2, "high": 8}})
    plan = Planner(asked, PlanOptions(cache=cache, device="cpu")).plan(drawn)
    rows = [row for row in plan.as_dict()["runs"] if row["purpose"] == "tuning"]
    assert [(row["label"], row["trial"], row["seed"]) for row in rows] == [
        (label, trial, seed) for label in ("full", "lora") for trial in range(5) for seed in (100, 101)
    ]
    assert all(row["predicted_s"] > 0 for row in rows)
    assert [row["run_id"] is not None for row in rows] == [False] * 10 + [True] * 4 + [False] * 6
    lora = [run for run in plan.tuning if run.label == "lora" and run.config]
    assert [run.config.adapter["rank"] for run in lora if run.config] == [2, 2, 3, 3]
    assert lora[0].trainable < lora[2].trainable, "counted with the values of the trial"
    assert {entry["label"]: entry["lacks"] for entry in plan.as_dict()["tuning"]} == {"full": ["adapter.rank"], "lora": []}


def test_a_search_without_folds_is_recorded_as_before_there_were_any() -> None:
    searches = [Search(key=Key("a", "b", "t", fold), space={}, lacks=(), trials=1, seeds=(100,), about="") for fold in (0, 2)]
    known = {"label": "a", "backbone": "b", "task": "t", "space": {}, "lacks": [], "trials": 1, "seeds": [100]}
    assert [search.as_dict() for search in searches] == [known, {**known, "fold": 2}]


def test_stand_ins_for_values_that_are_not_drawn_yet() -> None:
    space: dict[str, Any] = {
        "rate": Range(low=1e-4, high=1e-2, log=True),
        "rank": Range(low=2, high=6),
        "schedule": ["a", "b", "c"],
    }
    assert middle(space) == {"rate": pytest.approx(1e-3), "rank": 4, "schedule": "b"}
    assert [(v["rate"], v["rank"], v["schedule"]) for v in probes({**space, "rate": [1e-3]})] == [
        (1e-3, 4, "b"), (1e-3, 2, "b"), (1e-3, 6, "b"), (1e-3, 4, "a"), (1e-3, 4, "b"), (1e-3, 4, "c"),
    ]  # fmt: skip
    assert [values["rank"] for values in whole_numbers(space)] == [2, 3, 4, 5, 6]
    assert grid({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
