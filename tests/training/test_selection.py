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


@pytest.mark.parametrize(
    "train", [{"select": "best"}, {"select": "best", "early_stopping": {"patience": 9}}], ids=["plain", "stopping"]
)
def test_without_min_delta_any_gain_counts(train: dict[str, Any]) -> None:
    selector, _ = follow([5.0, 4.999, 4.999, 4.998, 6.0], **train)
    assert (selector.best.step, selector.since) == (4, 1)


def test_a_checkpoint_brings_all_of_it_back() -> None:
    selector, parameter = follow([5.0, 2.0, 3.0], select="best")
    tensors, values = flatten({"selection": selector.state()})
    state = unflatten(tensors, json.loads(json.dumps(values)))["selection"]
    again = Selector(Train(select="best"), INFO)
    again.load_state(state, torch.device("cpu"))
    assert (again.last, again.best, again.score, again.since) == (selector.last, selector.best, selector.score, selector.since)
    assert again.settle(3, {"w": parameter}, diverged=False).step == 2 and parameter.item() == 2


def test_a_checkpoint_before_the_first_validation() -> None:
    tensors, values = flatten({"selection": Selector(Train(), INFO).state()})
    again = Selector(Train(), INFO)
    again.load_state(unflatten(tensors, json.loads(json.dumps(values)))["selection"], torch.device("cpu"))
    assert again.score is None and again.last.step == 0
