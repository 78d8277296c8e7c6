"""Which step's weights are tested, and when training has gone on long enough without getting better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from peftlab.study.schema import Train
from peftlab.tasks.contract import Meter, TaskInfo


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What validation data said at one step."""

    step: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)  #: see ``Meter.thresholds``


class Selector:
    """Follows the primary metric on validation data.

    ``select: best`` keeps a copy of the weights of the best step; early stopping counts the validations since an improvement of
    more than ``min_delta``.
    """

    def __init__(self, train: Train, info: TaskInfo) -> None:
        self.metric = info.primary_metric
        self.sign = 1 if info.higher_is_better[self.metric] else -1
        self.keeps = train.select == "best"
        self.stopping = train.early_stopping
        self.last = Selection()  #: of the latest validation
        self.best = Selection()
        self.score: float | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self.since = 0  #: validations since the best one

    def observe(self, step: int, meter: Meter, trainable: Mapping[str, nn.Parameter]) -> dict[str, float]:
        """The metrics of a validation, taken note of."""
        metrics = meter.compute()
        self.last = Selection(step=step, metrics=metrics, thresholds=meter.thresholds())
        score = metrics[self.metric] * self.sign
        score = -math.inf if math.isnan(score) else score
        if self.score is None or score > self.score + (self.stopping.min_delta if self.stopping else 0.0):
            self.best, self.score, self.since = self.last, score, 0
            self.weights = {name: p.detach().clone() for name, p in trainable.items()} if self.keeps else {}
        else:
            self.since += 1
        return metrics

    def out_of_patience(self) -> bool:
        return self.stopping is not None and self.since >= self.stopping.patience

    def settle(self, step: int, trainable: Mapping[str, nn.Parameter], *, diverged: bool) -> Selection:
        """Put the weights that are tested in place: those of the best step where they were kept, else those of ``step``."""
        if not self.weights or diverged:
            return dataclasses.replace(self.last, step=step)
        for name, parameter in trainable.items():
            parameter.data.copy_(self.weights[name])
        return self.best

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        about = {"last": dataclasses.asdict(self.last), "best": dataclasses.asdict(self.best)}
        return {**about, "score": self.score, "since": self.since, "weights": self.weights}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.last, self.best = Selection(**state["last"]), Selection(**state["best"])
        self.score, self.since = state["score"], state["since"]
        self.weights = {name: tensor.to(device) for name, tensor in (state["weights"] or {}).items()}
