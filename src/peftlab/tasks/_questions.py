"""Questions about paragraphs, with their gold answers: read from rows and checked. N questions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftlab.errors import DataError
from peftlab.tasks._squad_metrics import by_kind, exact_match, f1, words
from peftlab.tasks._wording import counted
from peftlab.tasks.text.contract import Rows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """All questions of a source."""

    rows: Rows
    ids: list[str]
    questions: list[str]
    contexts: list[str]
    answers: list[tuple[str, ...]]  #: gold answers; none: the paragraph does not answer the question
    gold: np.ndarray  #: int64 [N, 2]: characters (begin, end) of the answer that is trained on; (-1, -1): there is none
    usable: np.ndarray  #: bool [N]: without an answer, or with one that lies where it should
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def answerable(self) -> np.ndarray:
        """bool [N]."""
        return np.array([bool(found) for found in self.answers], dtype=bool)

    @property
    def nullable(self) -> bool:
        """Whether some question that is used has no answer."""
        return not self.answerable[self.usable].all()

    def answerable_only(self) -> Questions:
        """These, with the questions that have no answer left out."""
        left = int((~self.answerable).sum())
        note = f"{left:,} of {len(self.ids):,} questions have no answer and are left out"
        return dataclasses.replace(self, usable=self.usable & self.answerable, notes=(*self.notes, note))

    def paragraphs(self) -> np.ndarray:
        """Number of each question's paragraph, int64 [N]: the same for the same text."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(context, len(numbers)) for context in self.contexts], dtype=np.int64)


def read_questions(rows: Rows, columns: Mapping[str, str]) -> Questions:
    """Columns found and every value looked at.

    Args:
        columns: ``question``, ``context``, ``answers`` -> what the data call them.

    Raises:
        DataError: no such column, no text in place of one, an empty paragraph, an id twice, answers in another form, most answers
            not where they should be.
    """
    questions, contexts = (rows.texts(columns[name]) for name in ("question", "context"))
    for index, context in enumerate(contexts):
        if not context.strip():
            where = f"{rows.where(index)} {columns['context']}"
            raise DataError("the paragraph is empty", where=where, remedy="give it a text, or remove its questions")
    ids = _ids(rows)
    given = [_answers(value, f"{rows.where(i)} {columns['answers']}") for i, value in enumerate(rows.column(columns["answers"]))]
    gold = np.full((len(ids), 2), -1, dtype=np.int64)
    lost: list[int] = []
    for index, (context, found) in enumerate(zip(contexts, given, strict=True)):
        there = next(((begin, begin + len(text)) for text, begin in found if context[begin : begin + len(text)] == text), None)
        if there is not None:
            gold[index] = there
        elif found:
            lost.append(index)
    answerable = sum(map(bool, given))
    if 2 * len(lost) > answerable:
        raise DataError(
            f"{len(lost):,} of {answerable:,} answers are not in their paragraph at `answer_start`",
            where=rows.where(lost[0]),
            remedy="answer_start counts characters (not bytes or words) from 0",
        )
    warnings = []
    if lost:
        why = "left out: no answer lies in the paragraph at its answer_start"
        warnings.append(counted([ids[i] for i in lost], f"question is {why}", f"questions are {why}"))
    blank = sum(not question.strip() for question in questions)
    usable = np.ones(len(ids), dtype=bool)
    usable[lost] = False
    return Questions(
        rows=rows,
        ids=ids,
        questions=questions,
        contexts=contexts,
        answers=[tuple(text for text, _ in found) for found in given],
        gold=gold,
        usable=usable,
        notes=(*rows.notes_beside(*columns.values(), "id", "title"), *([f"{blank} questions are empty"] if blank else [])),
        warnings=tuple(warnings),
    )


def _ids(rows: Rows) -> list[str]:
    """Those of the data; numbers of rows where there are none."""
    if "id" not in rows.names():
        return [str(i) for i in range(len(rows))]
    found = [str(value) for value in rows.column("id")]
    if len(set(found)) < len(found):
        name, times = Counter(found).most_common(1)[0]
        raise DataError(
            f"{times} questions have the id {name!r} ({len(found) - len(set(found))} ids come again)",
            where=rows.where(found.index(name)),
            remedy="give every question an id of its own, or remove what is there twice",
        )
    return found


def _answers(value: Any, where: str) -> list[tuple[str, int]]:
    """(text, first character) of every gold answer, from {text: [...], answer_start: [...]} or a list of single ones.

    Raises:
        DataError: it has neither form.
    """
    wanted = "give {text: [...], answer_start: [...]}, with empty lists where there is no answer"
    try:
        raw = json.loads(value) if isinstance(value, str) else value
        if isinstance(raw, Mapping):
            pairs: Sequence[tuple[Any, Any]] = list(zip(raw["text"], raw["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in raw]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"is no list of answers: {error}", where=where, remedy=wanted) from error
    for text, begin in pairs:
        if not isinstance(text, str) or not isinstance(begin, int) or not text or begin < 0:
            raise DataError(f"{text!r} at {begin!r} is no answer", where=where, remedy=wanted)
    return [(text, int(begin)) for text, begin in pairs]


def constant_level(found: Questions, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """What giving every question the most frequent training answer (or none, where that is more frequent) reaches on ``test``."""
    counts = Counter(" ".join(words(found.answers[i][0])) if found.answers[i] else "" for i in train)
    return _levels(found, test, {int(i): counts.most_common(1)[0][0] for i in test})


def guessing_level(found: Questions, test: np.ndarray, longest: int, draws: np.ndarray) -> dict[str, float]:
    """What random answers reach on ``test``: a stretch of 1 to ``longest`` words of the paragraph, first word and length uniform.

    Where there are questions without an answer, half the answers are empty (exactly: both outcomes are weighed by one half).

    Args:
        draws: uniform in [0, 1), float64 [len(test), 2].
    """
    guesses = {}
    for i, (place, length) in zip(test, draws, strict=True):
        split = found.contexts[i].split()
        first = int(place * len(split))
        guesses[int(i)] = " ".join(split[first : first + 1 + int(length * longest)])
    guessed = _levels(found, test, guesses)
    if not found.nullable:
        return guessed
    empty = _levels(found, test, dict.fromkeys(guesses, ""))
    return {name: (guessed[name] + empty[name]) / 2 for name in guessed}


def _levels(found: Questions, test: np.ndarray, given: Mapping[int, str]) -> dict[str, float]:
    """Metrics of the answers ``given``."""
    scores = np.array([[f1(given[i], found.answers[i]), exact_match(given[i], found.answers[i])] for i in map(int, test)])
    levels = by_kind(scores[:, 0], scores[:, 1], found.answerable[test] if found.nullable else None)
    return {name: value for name, value in levels.items() if not np.isnan(value)}
