"""Modules that are the same in everything but their tensors, and those that only look so."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from peftlab.nn.sameness import difference, same_trees


class Holder(nn.Module):
    """A module with an attribute."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Plain:
    """Without an equality of its own."""

    def __init__(self, value: Any) -> None:
        self.value = value


SAME: list[Callable[[], Any]] = [
    lambda: 0.5,
    lambda: {"default": 4.0, "other": [1, (2, None)]},
    lambda: torch.arange(3),
    lambda: functools.partial(nn.functional.layer_norm, eps=1e-6),
    lambda: Plain({"a": [1, torch.ones(2)]}),
    lambda: nn.functional.gelu,
]
OTHER: list[tuple[Any, Any]] = [
    (0.5, 0.6),
    ({"default": 1.0}, {"default": 16.0}),
    ({"default": 1.0}, {"another": 1.0}),
    (1, 1.0),
    ([1, 2], [1, 2, 3]),
    (torch.arange(3), torch.arange(3) + 1),
    (torch.ones(2), torch.ones(2).half()),
    (torch.ones(2), torch.ones(3)),
    (functools.partial(nn.functional.layer_norm, eps=1e-6), functools.partial(nn.functional.layer_norm, eps=1e-5)),
    (lambda x: x, lambda x: x),
    (Plain(1), Plain(2)),
    ((nn.Identity(),), (nn.Identity(),)),
    (nn.functional.gelu, nn.functional.relu),
    (object(), object()),
]


@pytest.mark.parametrize("make", SAME)
def test_equal_attributes_are_no_difference(make: Callable[[], Any]) -> None:
    assert difference([Holder(make()), Holder(make()), Holder(make())]) == ""


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_attributes_are_named(one: Any, other: Any) -> None:
    assert difference([Holder(one), Holder(one), Holder(other)]) == "value"


def test_what_cannot_be_compared_is_different() -> None:
    class Odd(list[int]):
        __hash__ = None  # type: ignore[assignment]

    class Never:
        def __eq__(self, other: object) -> bool:
            raise ValueError

        __hash__ = None  # type: ignore[assignment]

    assert difference([Holder(Never()), Holder(Never())]) == "value"
    assert difference([Holder(Odd([1])), Holder([1])]) == "value"


def test_a_cycle_is_followed_once() -> None:
    def made(value: int) -> Plain:
        found = Plain(value)
        found.me = found  # type: ignore[attr-defined]
        return found

    assert difference([Holder(made(1)), Holder(made(1))]) == ""
    assert difference([Holder(made(1)), Holder(made(2))]) == "value"


def test_an_attribute_of_one_alone_a_class_and_names_count() -> None:
    more = Holder(1)
    more.forward = lambda x: x  # type: ignore[method-assign]
    assert difference([Holder(1), more]) == "forward"
    assert difference([nn.GELU(), nn.ReLU()]) == "class"
    assert difference([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)]) == "_parameters"
    assert difference([nn.LayerNorm(4), nn.LayerNorm(4, eps=1e-6)]) == "eps"


def test_a_method_bound_to_its_own_module_is_the_same() -> None:
    class Own(Holder):
        def act(self) -> None: ...

    modules = [Own(None), Own(None)]
    for module in modules:
        module.value = module.act
    assert difference(modules) == ""
    modules[1].value = Own(None).act
    assert difference(modules) == "value"


def test_tensors_are_no_difference_and_what_libraries_note_neither() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.peft_config = {"default": 1}  # type: ignore[assignment]
    assert difference([one, other]) == ""


def test_trees_are_compared_down_to_their_leaves() -> None:
    tree = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.1)))
    other = copy.deepcopy(tree)
    assert same_trees([tree, other])
    other[1][0].p = 0.2  # pyright: ignore
    assert not same_trees([tree, other]) and difference([tree, other]) == ""
