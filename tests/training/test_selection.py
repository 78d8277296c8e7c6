"""Who is tested, and with which thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftlab.study.schema import Train
from peftlab.tasks.contract import Meter, TaskInfo
from peftlab.training.checkpoint import flatten, unflatten
from peftlab.training.selection import Selector


class Scores(Meter):
    """A meter that has seen one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None: ...

    def compute(self) -> dict[str, float]:
        return {"perplexity": self.value, "loss": 0.0}

    def details(self) -> dict[str, Any]:
        return {}

    def predictions(self) -> dict[str, np.ndarray]:
        return {}

    def thresholds(self) -> dict[str, float]:
        return {"null": 10 * self.value}


INFO = TaskInfo(
    outputs=1,
    label_names=(),
    sizes={},
    higher_is_better={"perplexity": False, "loss": False},
    primary_metric="perplexity",
    chance={},
    majority={},
)


def follow(values: list[float], **train: Any) -> tuple[Selector, nn.Parameter]:
    """One validation a step; the parameter holds the number of the step."""
    selector, parameter = Selector(Train(**train), INFO), nn.Parameter(torch.zeros(1))
    for step, value in enumerate(values, start=1):
        parameter.data.fill_(step)
        selector.observe(step, Scores(value), {"w": parameter})
    return selector, parameter


def kept(selector: Selector) -> dict[str, Any]:
    """Its state as a checkpoint gives it back."""
    tensors, values = flatten({"selection": selector.state()})
    return unflatten(tensors, json.loads(json.dumps(values)))["selection"]


def test_the_best_step_brings_its_weights_metrics_and_thresholds() -> None:
    selector, parameter = follow([5.0, 2.0, 3.0], select="best")
    found = selector.settle(3, {"w": parameter}, diverged=False)
    assert (found.step, found.metrics["perplexity"], found.thresholds) == (2, 2.0, {"null": 20.0})
    assert parameter.item() == 2


@pytest.mark.parametrize(("select", "diverged"), [("last", False), ("best", True)])
def test_otherwise_the_last_step_is_tested_by_what_its_own_validation_decided(select: str, diverged: bool) -> None:
    selector, parameter = follow([5.0, 2.0, 3.0], select=select)
    found = selector.settle(3, {"w": parameter}, diverged=diverged)
    assert (found.step, found.thresholds) == (3, {"null": 30.0}) and parameter.item() == 3


def test_a_score_that_is_no_number_is_worse_than_any() -> None:
    selector, _ = follow([math.nan, 7.0, math.nan], select="best")
    assert selector.best.step == 2 and selector.since == 1


def test_patience_counts_validations_without_a_gain_of_more_than_min_delta() -> None:
    train = {"select": "best", "early_stopping": {"patience": 2, "min_delta": 0.5}}
    assert not follow([5.0, 4.8], **train)[0].out_of_patience()
    assert follow([5.0, 4.8, 4.6], **train)[0].out_of_patience()
    assert not follow([5.0, 4.8, 4.4], **train)[0].out_of_patience()


def test_the_best_weights_follow_any_gain_and_patience_those_above_min_delta() -> None:
    train = {"select": "best", "early_stopping": {"patience": 3, "min_delta": 0.5}}
    selector, parameter = follow([5.0, 4.8, 4.6, 4.7], **train)
    assert selector.out_of_patience() and selector.since == 3
    assert selector.settle(4, {"w": parameter}, diverged=False).step == 3 and parameter.item() == 3
    selector, parameter = follow([5.0, 4.8, 4.4, 4.3, 4.2], **train)
    assert not selector.out_of_patience() and selector.since == 2, "small gains come to a large one in the end"
    assert selector.settle(5, {"w": parameter}, diverged=False).step == 5 and parameter.item() == 5


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_checkpoint_keeps_what_patience_counts_from(cut: int) -> None:
    values, train = [5.0, 4.8, 4.6, 4.4, 4.7, 4.3], {"select": "best", "early_stopping": {"patience": 9, "min_delta": 0.5}}
    quiet, _ = follow(values, **train)
    begun, parameter = follow(values[:cut], **train)
    again = Selector(Train(**train), INFO)
    assert again.load_state(kept(begun), torch.device("cpu")) == []
    for step, value in enumerate(values[cut:], start=cut + 1):
        parameter.data.fill_(step)
        again.observe(step, Scores(value), {"w": parameter})
    assert (again.best, again.score, again.mark, again.since) == (quiet.best, quiet.score, quiet.mark, quiet.since)
    assert again.since == 2 and torch.equal(again.weights["w"], quiet.weights["w"])


@pytest.mark.parametrize(
    ("values", "min_delta", "said"), [([5.0, 4.8], 0.5, True), ([5.0, 4.8, 4.0], 0.5, False), ([5.0, 6.0], 0.0, False)]
)
def test_a_checkpoint_from_before_there_were_two_goes_on_and_says_what_may_be_missing(
    values: list[float], min_delta: float, said: bool
) -> None:
    train = {"select": "best", "early_stopping": {"patience": 3, "min_delta": min_delta}}
    begun, _ = follow(values, **train)
    state = {key: value for key, value in kept(begun).items() if key != "mark"}
    if said:  # the gain of 0.2 was none
        first, _ = follow(values[:1], **train)
        state |= {"best": kept(first)["best"], "score": first.score}
    again = Selector(Train(**train), INFO)
    assert [note for note in again.load_state(state, torch.device("cpu")) if "up to step 2" in note and "min_delta" in note] == (
        ["begun by an earlier version: up to step 2 gains of min_delta or less did not count as the best"] if said else []
    )
    assert (again.mark, again.since) == (begun.mark, begun.since)


@pytest.mark.parametrize(
    "train", [{"select": "best"}, {"select": "best", "early_stopping": {"patience": 9}}], ids=["plain", "stopping"]
)
def test_without_min_delta_any_gain_counts(train: dict[str, Any]) -> None:
    selector, _ = follow([5.0, 4.999, 4.999, 4.998, 6.0], **train)
    assert (selector.best.step, selector.since) == (4, 1)


def test_a_checkpoint_brings_all_of_it_back() -> None:
    selector, parameter = follow([5.0, 2.0, 3.0], select="best")
    again = Selector(Train(select="best"), INFO)
    again.load_state(kept(selector), torch.device("cpu"))
    assert (again.last, again.best, again.score, again.since) == (selector.last, selector.best, selector.score, selector.since)
    assert again.settle(3, {"w": parameter}, diverged=False).step == 2 and parameter.item() == 2


def test_a_checkpoint_before_the_first_validation() -> None:
    again = Selector(Train(), INFO)
    again.load_state(kept(Selector(Train(), INFO)), torch.device("cpu"))
    assert again.score is None and again.last.step == 0
