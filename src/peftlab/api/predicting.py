"""Labels for new images and texts, from a folder that ``export`` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from peftlab.analysis.words import plural
from peftlab.api._model_folder import Exported, head_of, load_forward
from peftlab.api._predict_answers import predict_answers
from peftlab.api._predict_continuations import predict_continuations
from peftlab.api._predict_images import image_batches
from peftlab.api._predict_texts import text_batches
from peftlab.api.answers import Answer, lines, table
from peftlab.errors import DataError
from peftlab.tasks.contract import Head, TextPreprocessing

BATCH, TOP = 32, 3
#: heads whose answers are no labels -> what gives them
_OF_HEAD: Mapping[Head, Callable[[Path, Exported, Sequence[str]], Answer]] = {
    "question-answering": predict_answers,
    "causal-lm": predict_continuations,
}


def predict(model_folder: str | Path, inputs: Iterable[str | Path]) -> Answer:
    """Label images or texts with what ``export`` wrote, in whatever form, prepared exactly as in training.

    Args:
        model_folder: written by ``export``.
        inputs: image files, and folders that are searched for images; or texts, ``.txt`` files with a text a line, and tables
            (TSV, CSV, JSON, JSONL, Parquet) with the columns of training; questions in tables or SQuAD's files.

    Returns:
        Per input its label, confidence (softmax probability) and the three likeliest labels, or the number where the task
        predicts one. Files that cannot be decoded are named with the reason and make the exit code that of wrong data (3); the
        others are labelled all the same. Texts that are longer than what the model was trained with are cut, and named. Of a
        model of the next token, the greedily decoded continuation of each prompt, which the run's template makes of an
        instruction.

    Raises:
        DataError: an input is not there, or there is none; of texts: a missing column, a file that holds none.
        RecordError: no exported model, or a changed one.
        BackboneError: the adapter's backbone is not there.
        MissingExtra: an ONNX model, and onnxruntime is not installed.
    """
    folder = Path(model_folder)
    exported = Exported.read(folder)
    given = [str(entry) for entry in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    own = _OF_HEAD.get(head_of(exported.config))
    if own is not None:
        return own(folder, exported, given)
    unreadable: list[dict[str, str]] = []
    cut: list[str] = []
    prepared = exported.preprocessing
    if isinstance(prepared, TextPreprocessing):
        kind, batches = "text", text_batches(given, prepared, exported.columns, BATCH, cut)
    else:
        kind, batches = "file", image_batches(given, prepared, BATCH, unreadable)
    forward = None
    found: list[dict[str, Any]] = []
    for names, batch in batches:
        forward = forward or load_forward(folder, exported)  # not before the first inputs are known to be good
        with torch.inference_mode():
            logits = forward(batch)
        rows = zip(names, logits.double(), strict=True)
        found += [{kind: name, **_answer(row, exported)} for name, row in rows]
    data = {
        "model": folder,
        "label": exported.config.label,
        "run_id": exported.config.run_id,
        "predictions": found,
        "unreadable": unreadable,
        "cut": cut,
    }
    return Answer(data, lambda: _shown(found, unreadable, cut), exit_code=DataError.exit_code if unreadable else 0)


def _answer(logits: torch.Tensor, exported: Exported) -> dict[str, Any]:
    label_names = exported.label_names
    if exported.gives_a_number:
        return {"label": label_names[0], "value": float(logits[0])}
    values, places = logits.softmax(0).topk(min(TOP, len(label_names)))
    top = [{"label": label_names[int(k)], "confidence": float(p)} for p, k in zip(values, places, strict=True)]
    return {**top[0], "top": top}


def _shown(found: list[dict[str, Any]], unreadable: list[dict[str, str]], cut: list[str]) -> Any:
    def row(entry: dict[str, Any]) -> list[str]:
        others = ", ".join(f"{other['label']} {other['confidence']:.1%}" for other in entry["top"][1:])
        return [entry[kind], entry["label"], f"{entry['confidence']:.1%}", others]

    kind = "text" if found and "text" in found[0] else "file"
    drawn = None
    if found and "value" in found[0]:
        name = found[0]["label"]
        drawn = table([kind, name], ([entry[kind], f"{entry['value']:.4g}"] for entry in found), right=[name])
    elif found:
        drawn = table([kind, "label", "confidence", "next"], map(row, found), right=["confidence"])
    if not unreadable:
        longer = f"{len(cut)} of them are longer than what the model was trained with, and were cut: {', '.join(cut[:5])}"
        return lines(drawn, plural(len(found), "text" if kind == "text" else "image"), longer if cut else None)
    broken = table(["unreadable file", "reason"], ([entry["file"], entry["reason"]] for entry in unreadable))
    return lines(drawn, broken, f"{plural(len(found), 'image')}, {plural(len(unreadable), 'unreadable file')}")
