"""Which step's weights are tested, and when training has gone on long enough without getting better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

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

    ``select: best`` keeps a copy of the weights of the best step, be it better by ever so little. Early stopping has a mark of
    its own: the score that was last better than the mark before by more than ``min_delta``; it counts the validations since.
    """

    def __init__(self, train: Train, info: TaskInfo) -> None:
        self.metric = info.primary_metric
        self.sign = 1 if info.higher_is_better[self.metric] else -1
        self.keeps = train.select == "best"
        self.stopping = train.early_stopping
        self.last = Selection()  #: of the latest validation
        self.best = Selection()
        self.score: float | None = None  #: of the best one; higher is better
        self.weights: dict[str, torch.Tensor] = {}  #: of the best one
        self.mark: float | None = None  #: what a score has to be better than, by ``min_delta``, to prove patience right
        self.since = 0  #: validations since the mark was set

    def observe(self, step: int, meter: Meter, learnt: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """The metrics of a validation, taken note of."""
        metrics = meter.compute()
        self.last = Selection(step=step, metrics=metrics, thresholds=meter.thresholds())
        score = metrics[self.metric] * self.sign
        score = -math.inf if math.isnan(score) else score
        if self.score is None or score > self.score:
            self.best, self.score = self.last, score
            self.weights = {name: t.detach().clone() for name, t in learnt.items()} if self.keeps else {}
        if self.mark is None or score > self.mark + self.min_delta:
            self.mark, self.since = score, 0
        else:
            self.since += 1
        return metrics

    @property
    def min_delta(self) -> float:
        return self.stopping.min_delta if self.stopping else 0.0

    def out_of_patience(self) -> bool:
        return self.stopping is not None and self.since >= self.stopping.patience

    def settle(self, step: int, learnt: Mapping[str, torch.Tensor], *, diverged: bool) -> Selection:
        """Put the weights that are tested in place: those of the best step where they were kept, else those of ``step``."""
        if not self.weights or diverged:
            return dataclasses.replace(self.last, step=step)
        for name, tensor in learnt.items():
            tensor.data.copy_(self.weights[name])
        return self.best

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        about = {"last": dataclasses.asdict(self.last), "best": dataclasses.asdict(self.best)}
        return {**about, "score": self.score, "mark": self.mark, "since": self.since, "weights": self.weights}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> list[str]:
        """Continue from :meth:`state`.

        States of earlier versions have one score for both, and weights that only a gain of more than ``min_delta`` replaced.

        Returns:
            a note where the best weights so far may be missing for that.
        """
        self.last, self.best = Selection(**state["last"]), Selection(**state["best"])
        self.score, self.since = state["score"], state["since"]
        self.weights = {name: tensor.to(device) for name, tensor in (state["weights"] or {}).items()}
        self.mark = state.get("mark", self.score)
        if "mark" in state or not self.min_delta or not self.since:
            return []
        return [f"begun by an earlier version: up to step {self.last.step} gains of min_delta or less did not count as the best"]
