"""Arms that would fail, or do nothing, after hours of training: refused by the plan. And what it says of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import OptionError
from peftlab.planning.plan import Plan, PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.study.load import validate_study
from tests.contracts.tiny import make


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("vit", tmp_path_factory.mktemp("tiny-vit")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


def planned(backbone: str, cache: Path, arm: dict[str, Any], predict: bool = False, **train: Any) -> Plan:
    study = {
        "study": "tiny",
        "backbone": backbone,
        "task": {"kind": "image-classification", "data": "digits"},
        "seeds": [0],
        "train": {"epochs": 2, **train},
        "arms": {"arm": arm},
    }
    return make_plan(validate_study(study), PlanOptions(cache=cache, predict=predict))


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("quantize", ["before", "after"])
def test_a_scheme_that_does_not_fit_a_layer(backbone: str, cache: Path, quantize: str, predict: bool) -> None:
    arm = {"adapter": "lora", "quantizer": {"name": "groupwise", "group_size": 24}, "quantize": quantize}
    with pytest.raises(OptionError, match=r"layers?\.0\..* group size 24 does not divide the 32 inputs"):
        planned(backbone, cache, arm, predict)
    arm["quantizer"]["group_size"] = 16
    (run,) = planned(backbone, cache, arm, predict).runs
    assert run.refusal is None


@pytest.mark.parametrize(
    ("adapter", "where"),
    [
        ({"name": "lora", "targets": ["nothing_here"]}, "arms.arm.adapter.targets"),
        ({"name": "pooled", "group_size": 24}, "arms.arm.adapter.group_size, "),
    ],
)
def test_an_option_that_does_not_fit_the_backbone_names_its_arm(
    backbone: str, cache: Path, adapter: dict[str, Any], where: str
) -> None:
    with pytest.raises(OptionError) as caught:
        planned(backbone, cache, {"adapter": adapter})
    assert caught.value.where.startswith(where)


def test_a_quantization_schedule_that_the_selected_weights_may_not_have_seen_to_its_end(backbone: str, cache: Path) -> None:
    arm = {"adapter": "lora", "quantizer": {"name": "groupwise", "schedule": "linear", "end": 0.8}}
    assert planned(backbone, cache, arm).runs
    for train in ({"select": "best"}, {"select": "best", "early_stopping": {"patience": 1}}):
        with pytest.raises(OptionError, match="before the linear schedule is through") as caught:
            planned(backbone, cache, arm, **train)
        assert caught.value.where == "train.select"


@pytest.mark.parametrize(("rank", "rule"), [(2, "proportional"), (16, "top_k")])
def test_a_rule_under_which_no_rank_can_move(backbone: str, cache: Path, rank: int, rule: str) -> None:
    with pytest.raises(OptionError, match="no rank can ever move"):
        planned(backbone, cache, {"adapter": {"name": "lora", "rank": rank}, "allocator": rule})
    assert planned(backbone, cache, {"adapter": {"name": "lora", "rank": 8}, "allocator": rule}).runs


@pytest.mark.parametrize(("options", "scale"), [({}, "2"), ({"alpha": 2.0, "rank": 4}, "0.5"), ({"alpha_over_rank": 1.5}, "1.5")])
def test_the_effective_scale_of_adalora_is_printed(backbone: str, cache: Path, options: dict[str, Any], scale: str) -> None:
    arm = {"adapter": {"name": "svd", **options}, "allocator": {"name": "adalora", "budget": {"ranks": 12}, "every": 2}}
    (note,) = (note for note in planned(backbone, cache, arm).notes if note.startswith("adalora"))
    assert f"effective scale stays {scale}," in note
    assert "4 modules start with rank 5 each and end with 12 ranks" in note
