"""Grids, matrix and labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from peftlab.errors import StudyError
from peftlab.study.expand import Cell, cells
from peftlab.study.load import validate_study
from peftlab.study.schema import NAME


def study(arms: dict[str, Any], **more: Any) -> list[Cell]:
    base = {"study": "s", "backbone": "bundled:x", "task": {"kind": "t"}, "seeds": [0], "arms": arms}
    return cells(validate_study({**base, **more}))


def test_a_plain_arm_is_one_cell() -> None:
    (cell,) = study({"full": {"adapter": "full", "learning_rate": 1e-4}})
    assert (cell.arm, cell.label, cell.slug, dict(cell.factors)) == ("full", "full", "full", {})
    assert cell.adapter == {"name": "full"}
    assert cell.allocator is None
    assert cell.quantizer == {"name": "none"}
    assert cell.train.learning_rate == 1e-4
    assert cell.train.epochs == 5


def test_lists_multiply_out_in_the_order_of_the_file() -> None:
    found = study({"lora": {"adapter": {"name": "lora", "rank": [2, 4]}, "learning_rate": [1e-4, 1e-3]}})
    assert [cell.label for cell in found] == [
        "lora[rank=2,learning_rate=0.0001]",
        "lora[rank=2,learning_rate=0.001]",
        "lora[rank=4,learning_rate=0.0001]",
        "lora[rank=4,learning_rate=0.001]",
    ]
    assert found[2].adapter == {"name": "lora", "rank": 4}
    assert found[2].factors == {"rank": 4, "learning_rate": 1e-4}
    assert found[2].slug == "lora.rank-4.learning_rate-0.0001"


def test_a_list_in_a_list_is_one_value() -> None:
    found = study({"lora": {"adapter": {"name": "lora", "targets": [["q", "v"], "all-linear"]}}})
    assert [cell.adapter["targets"] for cell in found] == [["q", "v"], "all-linear"]
    assert [cell.label for cell in found] == ["lora[targets=q+v]", "lora[targets=all-linear]"]


def test_a_list_of_one_is_a_value_without_a_factor() -> None:
    (cell,) = study({"lora": {"adapter": {"name": "lora", "targets": [["q", "v"]]}}})
    assert (cell.label, cell.adapter["targets"]) == ("lora", ["q", "v"])


def test_components_can_be_a_factor() -> None:
    found = study({"a": {"adapter": ["full", {"name": "lora", "rank": 2}]}})
    assert [cell.label for cell in found] == ["a[adapter=full]", "a[adapter=lora]"]
    assert found[1].adapter == {"name": "lora", "rank": 2}


def test_two_keys_of_one_name_are_told_apart() -> None:
    found = study({"q": {"adapter": {"name": "lora", "type": ["a", "b"]}, "quantizer": {"name": "bnb", "type": ["nf4", "fp4"]}}})
    assert found[0].label == "q[adapter.type=a,quantizer.type=nf4]"
    assert len({cell.slug for cell in found}) == 4


def test_matrix_crosses_every_arm_with_backbones_tasks_and_keys() -> None:
    matrix = {"backbone": ["bundled:x", "bundled:y"], "task": [{"kind": "t"}, {"kind": "u"}], "batch_size": [8, 16]}
    found = study({"a": {"adapter": "full"}, "b": {"adapter": {"name": "lora", "rank": [2, 4]}}}, matrix=matrix)
    assert len(found) == 2 * 2 * 2 * (1 + 2)
    assert {(cell.backbone, cell.task["kind"], cell.train.batch_size) for cell in found if cell.arm == "a"} == {
        (b, t, n) for b in ("bundled:x", "bundled:y") for t in ("t", "u") for n in (8, 16)
    }


@pytest.mark.parametrize(
    ("arms", "more", "message"),
    [
        ({"a": {"adapter": {"name": "lora", "rank": [2, 2]}}}, {}, "two arms are both 'a[rank=2]'"),
        ({"a": {"adapter": {"name": "lora", "rank": []}}}, {}, "empty list"),
        ({"a": {"adapter": "full"}}, {"matrix": {"batch_sice": [1]}}, "Did you mean 'batch_size'"),
        ({"a": {"adapter": "full"}}, {"matrix": {"backbone": []}}, "list of backbone names"),
        ({"a": {"adapter": "full"}}, {"matrix": {"backbone": [3]}}, "list of backbone names"),
        ({"a": {"adapter": "full"}}, {"matrix": {"task": ["t"]}}, "list of tasks"),
        ({"a": {"adapter": "full", "epochs": 2}}, {"matrix": {"epochs": [1, 2]}}, "so does the matrix"),
        ({"a": {"adapter": "full", "epochs": -1}}, {}, "must be above 0"),
        ({"a": {"adapter": "full", "epochs": ["two"]}}, {}, "must be a number"),
        ({"a": {"adapter": "full", "early_stopping": {"patience": 2}}}, {}, "select: best"),
        ({"lora.rank-2": {"adapter": "full"}, "lora": {"adapter": {"name": "lora", "rank": [2, 3]}}}, {}, "the same folder"),
        ({"a" * 60: {"adapter": {"name": "lora", "targets": ["x" * 30, "y"]}}}, {}, "too long"),
    ],
)
def test_what_cannot_be_expanded(arms: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(arms, **more)
    assert message in str(caught.value)
    assert caught.value.where


VALUES = st.one_of(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from([1e-9, 1e-6, 0.5, 1.0000001, 1.0000002, 1e6, 1e9]), min_size=1, max_size=4, unique=True),
    st.lists(st.text("abcxyz", min_size=1, max_size=8), min_size=1, max_size=4, unique=True),
)


@given(
    st.dictionaries(st.sampled_from(["rank", "alpha", "init", "targets"]), VALUES, max_size=3),
    st.lists(st.floats(1e-7, 1.0).map(lambda rate: float(f"{rate:.2g}")), min_size=1, max_size=3, unique=True),
)
def test_as_many_cells_as_combinations_and_no_label_twice(options: dict[str, list], rates: list[float]) -> None:
    try:
        found = study({"arm": {"adapter": {"name": "lora", **options}, "learning_rate": rates}})
    except StudyError as error:
        assert "too long" in error.what
        reject()
    assert len(found) == math.prod(len(values) for values in options.values()) * len(rates)
    assert len({cell.label for cell in found}) == len(found)
    assert len({cell.slug for cell in found}) == len(found)
    assert all(NAME.fullmatch(cell.slug) for cell in found)
    assert {tuple(cell.adapter[key] for key in options) for cell in found} == {
        tuple(choice) for choice in _product(list(options.values()))
    }


def _product(lists: list[list]) -> list[list]:
    result: list[list] = [[]]
    for values in lists:
        result = [[*before, value] for before in result for value in values]
    return result
