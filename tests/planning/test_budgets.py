"""Budgets that are another arm's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peftlab.errors import OptionError
from peftlab.planning.budgets import resolve_budgets
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.schema import Study


def study(allocator, **arms) -> Study:
    return validate_study(
        {
            "study": "budgets",
            "backbone": "bundled:vit-nano",
            "task": {"kind": "image-classification", "data": "digits"},
            "seeds": [0],
            "arms": {
                "lora": {"adapter": {"name": "lora", "rank": [4, 8], "targets": "all-linear"}},
                "one": {"adapter": {"name": "lora", "targets": "all-linear"}, "allocator": allocator},
                **arms,
            },
        }
    )


def resolve(wanted: Study) -> dict:
    known = cells(wanted)
    return {c.label: c.allocator for c in resolve_budgets(known, known)}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> PlanOptions:
    return PlanOptions(cache=measured(tmp_path_factory.mktemp("cache")), predict=False)


def test_a_matched_budget_is_that_arms_trainable_parameters(options: PlanOptions) -> None:
    wanted = study({"name": "linear-decay", "budget": "match lora[rank=8]"})
    plan = make_plan(wanted, options)
    planned = {run.label: run for run in plan.runs}
    budget = resolve(wanted)["one"]["budget"]["parameters"]
    head = planned["lora[rank=8]"].trainable - budget
    assert 0 < head < 1000  # the head of 10 classes, which both train
    left = budget - (planned["one"].trainable - head)
    assert 0 <= left < 200
    assert any("cannot be spent in whole ranks" in note for note in plan.notes) == (left > 0)
    config = planned["one"].config
    assert config is not None and config.allocator is not None
    assert config.allocator["budget"] == {"parameters": budget}


def test_what_rounding_leaves_is_said_in_the_plan(options: PlanOptions) -> None:
    plan = make_plan(study({"name": "linear-decay", "budget": {"parameters": 10_001}}), options)
    assert any("of 10001 parameters cannot be spent in whole ranks" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("match lroa[rank=8]", r"Did you mean 'lora\[rank=8\]'"),
        ("match lora", "stands for several"),
        ("match one", "circle: one -> one"),
        ("match probe", "nothing outside the head"),
    ],
)
def test_arms_that_cannot_be_matched_are_errors(budget: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(study({"name": "linear-decay", "budget": budget}, probe={"adapter": "linear-probe"}))


@pytest.mark.parametrize(
    ("allocator", "message"),
    [
        ({"name": "linear-decay", "budget": "match full", "max_rank": 2}, "above the most"),
        ({"name": "linear-decay", "budget": {"ranks": 3}}, "below the least"),
        ({"name": "selective", "keep": "blocks:40"}, "none of the adapted layers"),
    ],
)
def test_budgets_that_cannot_be_met_are_errors_when_planned(allocator, message: str, options: PlanOptions) -> None:
    with pytest.raises(OptionError, match=message):
        make_plan(study(allocator, full={"adapter": "full"}), options)


def test_an_allocator_on_an_adapter_without_rank_is_an_error_when_planned(options: PlanOptions) -> None:
    with pytest.raises(OptionError, match="no rank"):
        make_plan(study("linear-decay", odd={"adapter": "bitfit", "allocator": "linear-decay"}), options)


@pytest.mark.parametrize(
    ("adapter", "allocator", "message"),
    [
        ("svd", {"name": "adalora", "every": 10_000}, "no mask is due"),
        ("svd", {"name": "adalora", "initial_rank": 8}, "would never fall"),
        ("lora", {"name": "adalora"}, "'lora' has none"),
    ],
)
def test_an_adalora_that_could_not_act_is_an_error_when_planned(adapter, allocator, message: str, options: PlanOptions) -> None:
    with pytest.raises(OptionError, match=message):
        make_plan(study("linear-decay", odd={"adapter": adapter, "allocator": allocator}), options)
