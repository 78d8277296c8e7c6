"""Metrics of answers to questions. B windows in a batch, T tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from peftlab.tasks._answers import Found, Spans, decode, gather
from peftlab.tasks._questions import Questions
from peftlab.tasks._squad_metrics import best_threshold, by_kind, exact_match, f1
from peftlab.tasks._windows import Windows
from peftlab.tasks.contract import Meter

NO_ANSWER = "no_answer"


def span_losses(logits: torch.Tensor, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
    """Of each window the mean of two cross-entropies over its positions, that of the start and that of the end; nats, [B].

    Padding is no position. Smoothing spreads its share evenly over the positions.

    Args:
        logits: float32 or float64 [B, T, 2].
    """
    mask = batch["attention_mask"][:, :, None] == 0
    log_p = functional.log_softmax(logits.masked_fill(mask, -math.inf), dim=1)
    targets = torch.stack([batch["start_positions"], batch["end_positions"]], dim=1)[:, None, :]
    loss = -log_p.gather(1, targets)[:, 0]
    if label_smoothing:
        even = -log_p.masked_fill(mask, 0.0).sum(1) / batch["attention_mask"].sum(1, keepdim=True)
        loss = (1 - label_smoothing) * loss + label_smoothing * even
    return loss.mean(1)


class AnswerMeter(Meter):
    """Collects start and end logits [B, T, 2] of windows; gives F1, exact match and loss of questions.

    ``thresholds``: what other examples decided; None: the threshold for "no answer" is the one with the best F1 on these.
    """

    def __init__(
        self,
        questions: Questions,
        windows: Windows,
        used: np.ndarray,
        *,
        n_best: int,
        max_answer_length: int,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        """``used``: which questions the windows are of, int64 [Q]."""
        self._questions, self._windows, self._used = questions, windows, used
        self._n_best, self._longest, self._given = n_best, max_answer_length, thresholds
        self._seen: list[tuple[np.ndarray, np.ndarray, Spans]] = []
        self._scored: dict[str, np.ndarray] | None = None
        self._texts: list[str] = []  #: the best answer that is not empty

    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None:
        logits = outputs.detach().double()
        losses = span_losses(logits, batch).cpu().numpy()
        numbers = batch["windows"].cpu().numpy()
        spans = decode(logits.cpu().numpy(), self._windows, numbers, n_best=self._n_best, max_answer_length=self._longest)
        best = Spans(score=spans.score[:, :1], begin=spans.begin[:, :1], end=spans.end[:, :1], null=spans.null)
        self._seen.append((numbers, losses, best))
        self._scored = None

    def _scores(self) -> dict[str, np.ndarray]:
        """Per question, in the order seen: number, scores of the best answer that is not empty, score difference."""
        if self._scored is None:
            numbers = np.concatenate([np.empty(0, dtype=np.int64), *(seen[0] for seen in self._seen)])
            joined = Spans(**{name: np.concatenate([getattr(seen[2], name) for seen in self._seen]) for name in Spans.__slots__})
            found = dict(gather(joined, self._windows.question_of(numbers)))
            places = self._used[np.array(list(found), dtype=np.int64)]
            self._texts = [self._text(int(i), one) for i, one in zip(places, found.values(), strict=True)]
            pairs = list(zip(self._texts, (self._questions.answers[i] for i in places), strict=True))
            difference = np.array([one.difference for one in found.values()])
            valid = ~np.isnan(difference)
            self._scored = {
                "question": places,
                "answerable": self._questions.answerable[places],
                "difference": difference,
                "f1": np.array([f1(*pair) for pair in pairs]) * valid,
                "exact_match": np.array([exact_match(*pair) for pair in pairs]) * valid,
            }
        return self._scored

    def _text(self, question: int, found: Found) -> str:
        context = self._questions.contexts[question]
        return context[found.spans[0][1] : found.spans[0][2]] if found.spans else ""

    def _threshold(self) -> float:
        """Above this score difference no answer is given."""
        if not self._questions.nullable:
            return math.inf
        if self._given is not None:
            return self._given.get(NO_ANSWER, 0.0)
        scores = self._scores()
        return best_threshold(scores["f1"], scores["difference"], scores["answerable"])[0]

    def _given_answers(self) -> dict[str, np.ndarray]:
        """Scores as they count, and where an answer is given."""
        scores, threshold = self._scores(), self._threshold()
        empty = scores["difference"] > threshold
        right = (~scores["answerable"]).astype(np.float64)
        return {
            "answered": ~empty & ~np.isnan(scores["difference"]),
            "f1": np.where(empty, right, scores["f1"]),
            "exact_match": np.where(empty, right, scores["exact_match"]),
        }

    def compute(self) -> dict[str, float]:
        if not self._seen:
            none = np.empty(0)
            answerable = none.astype(bool) if self._questions.nullable else None
            return {**by_kind(none, none, answerable), "loss": math.nan}
        given = self._given_answers()
        answerable = self._scores()["answerable"] if self._questions.nullable else None
        losses = np.concatenate([seen[1] for seen in self._seen])
        return {**by_kind(given["f1"], given["exact_match"], answerable), "loss": float(losses.mean())}

    def thresholds(self) -> dict[str, float]:
        return {NO_ANSWER: self._threshold()} if self._questions.nullable and self._seen else {}

    def details(self) -> dict[str, Any]:
        """``answers``: id -> text ("" for none), as SQuAD's evaluation script takes them; how many questions were not finite."""
        if not self._seen:
            return {"answers": {}, "not_finite": 0, "thresholds": {}}
        scores, answered = self._scores(), self._given_answers()["answered"]
        ids = [self._questions.ids[i] for i in scores["question"]]
        return {
            "answers": {name: text if given else "" for name, text, given in zip(ids, self._texts, answered, strict=True)},
            "not_finite": int(np.isnan(scores["difference"]).sum()),
            "thresholds": self.thresholds(),
        }

    def predictions(self) -> dict[str, np.ndarray]:
        """Per question, in the order they were seen.

        ``label``: 1 with, 0 without an answer; ``prediction``: 1 where one was given, 0 where none was, -1: not finite; both
        int64. ``f1``, ``exact_match``, ``score_difference`` (no answer minus best answer) float64.
        """
        if not self._seen:
            whole, real = np.empty(0, dtype=np.int64), np.empty(0)
            names = ("label", "prediction", "f1", "exact_match", "score_difference")
            return {name: whole if name in names[:2] else real for name in names}
        scores, given = self._scores(), self._given_answers()
        prediction = np.where(np.isnan(scores["difference"]), -1, given["answered"].astype(np.int64))
        return {
            "label": scores["answerable"].astype(np.int64),
            "prediction": prediction,
            "f1": given["f1"],
            "exact_match": given["exact_match"],
            "score_difference": scores["difference"],
        }
