"""Texts, and files of texts, as inputs of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from peftlab import mistakes
from peftlab.api._named_files import file_of
from peftlab.errors import DataError, close
from peftlab.tasks._tokens import tokenize
from peftlab.tasks.contract import TextPreprocessing
from peftlab.tasks.text.contract import RowPart
from peftlab.tasks.text.squad_json import SquadJson, read_nested
from peftlab.tasks.text.tables import SUFFIXES, read_table, read_text

Batch = tuple[list[str], dict[str, torch.Tensor]]


def text_batches(
    inputs: Iterable[str], preprocessing: TextPreprocessing, columns: Sequence[str], size: int, cut: list[str]
) -> Iterator[Batch]:
    """Names and inputs, ``size`` at a time.

    Args:
        inputs: texts; ``.txt`` files with a text a line; tables with the columns of training.
        columns: of text in training: one, or two for pairs.
        cut: gets the names of texts that are longer than the model was trained with, and are cut.

    Raises:
        DataError: a pair model is given single texts, a table lacks a column or has no text in it, a folder or a file of another
            kind, a file that is not there, an empty text, nothing at all.
    """
    names, texts = texts_of(inputs, columns, needed=len(columns))
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        second = [text[1] for text in part] if len(columns) == 2 else None
        tokens = tokenize([text[0] for text in part], second, preprocessing, preprocessing.max_length)
        cut += [names[start + i] for i in np.flatnonzero(tokens.cut)]
        yield names[start : start + size], tokens.padded(np.arange(len(part)), preprocessing.pad_token)


def texts_of(inputs: Iterable[str], columns: Sequence[str], *, needed: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Names, and one text for each column that is there; without the first ``needed`` columns there is no input.

    Raises:
        DataError: as :func:`text_batches`.
    """
    single = "texts, .txt files with a text a line, or " if needed == 1 else ""
    read = f"give {single}tables ({', '.join(SUFFIXES)}) with {columns_named(columns[:needed])}"
    names: list[str] = []
    texts: list[tuple[str, ...]] = []
    for given in inputs:
        path = file_of(given, (*SUFFIXES, ".txt"), read)
        if path is not None and path.suffix.lower() in SUFFIXES:
            found = _rows(path, columns, needed)
        elif needed == 2:
            raise DataError("the model labels pairs of texts", where=given[:80], remedy=read)
        elif path is not None:
            found = _lines(path)
        else:
            found = [(given if len(given) <= 60 else given[:57] + "...", (given,))]
        names += [name for name, _ in found]
        texts += [text for _, text in found]
    if not texts:
        raise DataError("there is no text", where="inputs", remedy=read)
    return names, texts


def columns_named(columns: Sequence[str]) -> str:
    """``the column 'text'``."""
    return f"the column{'s' if len(columns) > 1 else ''} {' and '.join(map(repr, columns))}"


def read_rows(path: Path) -> RowPart:
    """Rows of a table, or questions and paragraphs of SQuAD's nested JSON: either may have been the data of training."""
    return read_nested(path, "train", answered=False) if SquadJson.accepts(str(path)) else read_table(path, "train")


def _rows(path: Path, columns: Sequence[str], needed: int) -> list[tuple[str, tuple[str, ...]]]:
    """Names and texts of a table."""
    table = read_rows(path)
    for column in columns[:needed]:
        if column not in table.columns:
            raise _nested(table, column) or table.lacks(column)
    rows = zip(*(table.columns[column] for column in columns if column in table.columns), strict=True)
    found = [(table.where(i), row) for i, row in enumerate(rows)]
    for where, row in found:
        if other := [value for value in row if not isinstance(value, str)]:
            raise DataError(f"{mistakes.kind(other[0])} in place of a text", where=where, remedy="give a text")
    return found


def _nested(table: RowPart, column: str) -> DataError | None:
    """The error for a document of documents, as SQuAD's are, in which no column is nearly called so."""
    deep = [(name, values[0]) for name, values in table.columns.items() if values and isinstance(values[0], dict | list)]
    if not deep or close(column, list(table.columns)):
        return None
    what = f"is no table of texts: {deep[0][0]!r} holds {mistakes.kind(deep[0][1])}"
    row = json.dumps({column: "a text"}, ensure_ascii=False)
    return DataError(what, where=table.header, remedy=f"write it as a table with that column; in JSON: [{row}, ...]")


def _lines(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Names and texts of a file with one a line; line ends of Windows are no part of a text."""
    lines = enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1)
    return [(f"{path.name} line {i}", (line,)) for i, line in lines if line.strip()]
