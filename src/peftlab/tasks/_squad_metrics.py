"""Exact match and F1 of answers, as SQuAD's official evaluation script (version 2.0) defines them. N questions.

Source: Rajpurkar et al. 2016, section 6.1 of "SQuAD: 100,000+ Questions for Machine Comprehension of Text"; Rajpurkar, Jia &
Liang 2018 for questions without an answer. Values are shares, 0 to 1, where the script prints percentages.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(answer: str) -> list[str]:
    """Words of an answer: lower case, without ASCII punctuation, without the articles a, an, the."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 where the words are those of any gold answer; see :func:`correct_answers`."""
    found = words(prediction)
    return float(any(found == words(gold) for gold in correct_answers(golds)))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Largest F1 = 2 P R / (P + R) over the gold answers, of words as multisets; no words agree with no words alone."""
    found = Counter(words(prediction))
    return max(_f1(found, Counter(words(gold))) for gold in correct_answers(golds))


def _f1(found: Counter[str], gold: Counter[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    shared = (found & gold).total()
    if not shared:
        return 0.0
    precision, recall = shared / found.total(), shared / gold.total()
    return 2 * precision * recall / (precision + recall)


def correct_answers(golds: Sequence[str]) -> Sequence[str]:
    """Gold answers that have words; where none has, the empty answer is the right one."""
    return [gold for gold in golds if words(gold)] or [""]


def by_kind(f1_scores: np.ndarray, exact: np.ndarray, answerable: np.ndarray | None) -> dict[str, float]:
    """Metrics from scores of single questions, float64 [N].

    ``answerable``: bool [N], or None where every question of the task has an answer. Of questions without one F1 and exact match
    are the same.
    """
    found = {"f1": _mean(f1_scores), "exact_match": _mean(exact)}
    if answerable is None:
        return found
    return found | {
        "has_answer_f1": _mean(f1_scores[answerable]),
        "has_answer_exact_match": _mean(exact[answerable]),
        "no_answer_exact_match": _mean(exact[~answerable]),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def best_threshold(scores: np.ndarray, differences: np.ndarray, answerable: np.ndarray) -> tuple[float, float]:
    """The score difference above which "no answer" is given, chosen so that the mean score is largest; and that mean.

    Questions are answered in the order of their difference. As in the official script the threshold is the difference of the last
    question that is still answered (the first such among equals). Where nothing is best answered, the script says 0; here it is
    below the smallest difference, which does what was found best.

    Args:
        scores: EM or F1 of the non-empty answer, [N].
        differences: score of no answer minus that of the answer, [N]; NaN: never right; +inf: there is no answer to give.
        answerable: bool [N].

    Returns:
        (threshold, mean score over all N).
    """
    valid = np.flatnonzero(~np.isnan(differences))
    order = valid[np.argsort(differences[valid], kind="stable")]
    gained = np.where(answerable[order], scores[order], scores[order] - 1.0)
    total = np.concatenate([[0.0], np.cumsum(gained)]) + float((~answerable[order]).sum())
    ordered = differences[order]
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])[: len(total)]  # equal ones are answered together
    last = int(np.argmax(np.where(possible, total, -np.inf)))
    below = ordered[0] - 1.0 if len(ordered) and np.isfinite(ordered[0]) else 0.0
    return float(ordered[last - 1] if last else below), float(total[last] / len(scores))
