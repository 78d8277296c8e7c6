"""From the scores of positions to answers: the best span of a question's windows, and what speaks for no answer.

W windows, T tokens, K spans a window. Scores are sums of two logits, float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from peftlab.tasks._windows import Windows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The best spans of some windows, best first; ``score`` is -inf where a window has fewer than K."""

    score: np.ndarray  #: float64 [W, K]: start logit + end logit
    begin: np.ndarray  #: int64 [W, K]: characters of the paragraph
    end: np.ndarray
    null: np.ndarray  #: float64 [W]: start logit + end logit of [CLS]; NaN where a logit is not finite


def decode(logits: np.ndarray, windows: Windows, numbers: np.ndarray, *, n_best: int, max_answer_length: int) -> Spans:
    """As run_squad of Devlin et al. 2019: the ``n_best`` likeliest starts with the ``n_best`` likeliest ends.

    A span lies in the paragraph, ends where it starts or later, has at most ``max_answer_length`` tokens, and starts in the
    window that shows most around its first token. Of equal logits the earlier position comes first. Some tokenizers make tokens
    of white space alone: a span of nothing else is none, and of others such tokens at the ends are not part of the answer (in
    run_squad, which cuts at white space first, there are none).

    Args:
        logits: start and end of every position, float [W, T, 2]; T at least the longest of the windows.
        numbers: which windows these are, int64 [W].
    """
    lengths = windows.tokens.lengths[numbers]
    place = np.arange(logits.shape[1])
    here = place[None, :] < lengths[:, None]
    finite = (np.isfinite(logits).all(axis=2) | ~here).all(axis=1)
    flat = np.where(here, windows.tokens.offsets[numbers][:, None] + place[None, :], 0)
    begin, end = np.where(here, windows.begin[flat], -1), np.where(here, windows.end[flat], -1)
    may_start = (begin >= 0) & windows.widest[flat]
    onward, back = _solid(begin < end)
    values = np.where(here[:, :, None], logits.astype(np.float64), -np.inf)
    order = np.argsort(-values, axis=1, kind="stable")[:, :n_best]
    start, stop = order[:, :, 0], order[:, :, 1]  # [W, n]
    length = stop[:, None, :] - start[:, :, None] + 1
    fits = (length >= 1) & (length <= max_answer_length) & finite[:, None, None]
    fits &= np.take_along_axis(may_start, start, 1)[:, :, None] & (np.take_along_axis(end, stop, 1) >= 0)[:, None, :]
    head, tail = np.take_along_axis(onward, start, 1), np.take_along_axis(back, stop, 1)
    fits &= head[:, :, None] <= tail[:, None, :]
    sums = np.take_along_axis(values[:, :, 0], start, 1)[:, :, None] + np.take_along_axis(values[:, :, 1], stop, 1)[:, None, :]
    score = np.where(fits, sums, -np.inf).reshape(len(numbers), -1)
    best = np.argsort(-score, axis=1, kind="stable")[:, :n_best]
    first, last = np.take_along_axis(head, best // stop.shape[1], 1), np.take_along_axis(tail, best % stop.shape[1], 1)
    first = np.minimum(first, logits.shape[1] - 1)  # of what is no span
    rows = np.arange(len(numbers))
    null = windows.null[numbers]
    return Spans(
        score=np.take_along_axis(score, best, 1),
        begin=np.take_along_axis(begin, first, 1).astype(np.int64),
        end=np.take_along_axis(end, last, 1).astype(np.int64),
        null=np.where(finite, values[rows, null, 0] + values[rows, null, 1], np.nan),
    )


def _solid(solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each position the next and the last one up to it that is solid, int64 [W, T]; T and -1 where there is none."""
    longest = solid.shape[1]
    place = np.arange(longest)
    onward = np.minimum.accumulate(np.where(solid, place, longest)[:, ::-1], axis=1)[:, ::-1]
    return onward, np.maximum.accumulate(np.where(solid, place, -1), axis=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found for one question."""

    spans: tuple[tuple[float, int, int], ...]  #: (score, first character, character after the last), best first
    null: float  #: score of no answer: the smallest of its windows; NaN where a logit is not finite

    @property
    def difference(self) -> float:
        """Score of no answer minus that of the best span: +inf where there is no span."""
        return self.null - self.spans[0][0] if self.spans else (np.nan if np.isnan(self.null) else np.inf)


def gather(spans: Spans, questions: np.ndarray) -> Iterator[tuple[int, Found]]:
    """(question, what was found), in the order in which questions come first.

    Args:
        questions: of each window, int64 [W]; the windows of one question are in order, others may lie between them.
    """
    for question in dict.fromkeys(questions.tolist()):
        rows = np.flatnonzero(questions == question)
        score = spans.score[rows].ravel()
        order = np.argsort(-score, kind="stable")
        order = order[score[order] > -np.inf]
        begin, end = spans.begin[rows].ravel()[order], spans.end[rows].ravel()[order]
        found = zip(score[order].tolist(), begin.tolist(), end.tolist(), strict=True)
        yield question, Found(spans=tuple(found), null=float(spans.null[rows].min()))


def ranked(found: Found, context: str, *, nullable: bool, n_best: int) -> list[tuple[str, float, int, int]]:
    """The ``n_best`` best different answers, best first: (text, probability, first character, character after the last).

    Probabilities are the softmax of their scores, no answer ("", -1, -1) among them where that is ``nullable``.
    """
    chosen: dict[str, tuple[float, int, int]] = {}
    for score, begin, end in found.spans:
        if len(chosen) < n_best:
            chosen.setdefault(context[begin:end], (score, begin, end))
    if nullable or not chosen:
        chosen[""] = (found.null, -1, -1)
    scores = np.array([score for score, _, _ in chosen.values()])
    share = np.exp(scores - scores.max())
    probability = share / share.sum()
    order = np.argsort(-scores, kind="stable")
    listed = [(text, *where) for text, (_, *where) in chosen.items()]
    return [(listed[i][0], float(probability[i]), listed[i][1], listed[i][2]) for i in order]
