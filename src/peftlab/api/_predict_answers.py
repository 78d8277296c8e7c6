"""Answers to new questions about paragraphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftlab.api._model_folder import Exported, load_forward
from peftlab.api._named_files import file_of
from peftlab.api._predict_texts import columns_named, read_rows
from peftlab.api.answers import Answer, lines, table
from peftlab.errors import DataError
from peftlab.registry import create
from peftlab.tasks._answer_meter import NO_ANSWER
from peftlab.tasks._answers import decode, gather, ranked
from peftlab.tasks._windows import make_windows
from peftlab.tasks.contract import TextPreprocessing
from peftlab.tasks.text.squad_json import SquadJson
from peftlab.tasks.text.tables import SUFFIXES

BATCH, TOP = 16, 3


def predict_answers(folder: Path, exported: Exported, inputs: Sequence[str]) -> Answer:
    """Answer the questions of tables (with the columns of training) and of files in SQuAD's layout.

    Per question its answer ("" for none), the probability of that among the best answers, its characters in the paragraph, and
    the score difference that decided (no answer is given above the threshold of the run's validation data).

    Raises:
        DataError: an input is no such file, lacks a column or holds something else than texts.
    """
    asked = [row for given in inputs for row in _questions(given, exported.columns)]
    if not asked:
        raise DataError("there is no question", where="inputs", remedy="give tables with questions and paragraphs")
    prepared = exported.preprocessing
    assert isinstance(prepared, TextPreprocessing)
    task: Any = create("task", exported.config.task, key="kind", where="task")
    none = np.full((len(asked), 2), -1, dtype=np.int64)
    windows = make_windows([row[1] for row in asked], [row[2] for row in asked], none, prepared, task.cut(prepared))
    threshold = exported.thresholds.get(NO_ANSWER, math.inf)
    nullable = NO_ANSWER in exported.thresholds
    forward = load_forward(folder, exported)
    found: list[dict[str, Any]] = []
    for start in range(0, len(asked), BATCH):
        rows = windows.of(np.arange(start, min(start + BATCH, len(asked))))
        with torch.inference_mode():
            logits = forward(task.inputs(windows.padded(rows, prepared.pad_token)))
        spans = decode(logits.double().numpy(), windows, rows, n_best=task.n_best, max_answer_length=task.max_answer_length)
        for number, one in gather(spans, windows.question_of(rows)):
            where, question, context = asked[number]
            best = ranked(one, context, nullable=nullable, n_best=task.n_best)
            empty = nullable and one.difference > threshold
            chosen = next((entry for entry in best if bool(entry[0]) != empty), ("", 0.0, -1, -1))
            names = ("answer", "score", "begin", "end")
            found.append(
                {
                    "where": where,
                    "question": question,
                    **dict(zip(names, chosen, strict=True)),
                    "score_difference": one.difference if nullable and math.isfinite(one.difference) else None,
                    "top": [dict(zip(names, entry, strict=True)) for entry in best[:TOP]],
                }
            )
    data = {
        "model": folder,
        "label": exported.config.label,
        "run_id": exported.config.run_id,
        "thresholds": dict(exported.thresholds),
        "predictions": found,
    }
    return Answer(data, lambda: _shown(found))


def _questions(given: str, columns: Sequence[str]) -> list[tuple[str, str, str]]:
    """(place, question, paragraph) of one input."""
    read = f"give tables ({', '.join(SUFFIXES)}) with {columns_named(columns)}, or files of SQuAD's"
    path = file_of(given, SUFFIXES, read)
    if path is None:
        raise DataError("is no table", where=given[:80], remedy=read)
    part = read_rows(path)
    names = ("question", "context") if SquadJson.accepts(given) else columns
    for name in names:
        if name not in part.columns:
            raise part.lacks(name)
    rows = [(part.where(i), *texts) for i, texts in enumerate(zip(*(part.columns[name] for name in names), strict=True))]
    for where, question, context in rows:
        if not isinstance(question, str) or not isinstance(context, str) or not context.strip():
            raise DataError("a question or paragraph is empty or no text", where=where, remedy="give both as texts")
    return rows


def _shown(found: list[dict[str, Any]]) -> Any:
    def row(entry: dict[str, Any]) -> list[str]:
        others = ", ".join(f"{other['answer'] or '(none)'} {other['score']:.1%}" for other in entry["top"][1:])
        return [entry["question"], entry["answer"] or "(none)", f"{entry['score']:.1%}", others]

    drawn = table(["question", "answer", "probability", "next"], map(row, found), right=["probability"])
    return lines(drawn, f"{len(found)} questions")
