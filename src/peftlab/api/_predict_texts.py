"""Texts, and files of texts, as inputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from peftlab import mistakes
from peftlab.errors import DataError, nearest
from peftlab.tasks._tokens import tokenize
from peftlab.tasks.contract import TextPreprocessing
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
        DataError: a pair model is given single texts, a table lacks a column or has no text in it, a file is none of these,
            nothing is there.
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
    names: list[str] = []
    texts: list[tuple[str, ...]] = []
    for given in inputs:
        path = Path(given) if len(given) < 1000 else None
        if path is not None and path.suffix in SUFFIXES and path.is_file():
            table = read_table(path, "train")
            for column in columns[:needed]:
                if column not in table.columns:
                    raise DataError(f"no column {column!r}", where=given, remedy=nearest(column, list(table.columns)))
            there = [column for column in columns if column in table.columns]
            rows = list(zip(*(table.columns[column] for column in there), strict=True))
            for i, row in enumerate(rows):
                if other := [value for value in row if not isinstance(value, str)]:
                    raise DataError(f"{mistakes.kind(other[0])} in place of a text", where=table.where(i), remedy="give a text")
            names += [table.where(i) for i in range(len(rows))]
            texts += rows
            continue
        if needed == 2:
            pair = " and ".join(map(repr, columns))
            raise DataError("the model labels pairs of texts", where=given[:80], remedy=f"give a table with the columns {pair}")
        if path is not None and path.suffix == ".txt" and path.is_file():
            lines = [(i, line) for i, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
            names += [f"{path.name} line {i}" for i, _ in lines]
            texts += [(line,) for _, line in lines]
        elif path is not None and path.suffix in (*SUFFIXES, ".txt") and " " not in given:
            raise DataError("there is no such file", where=given, remedy="check the path")
        elif "/" in given and " " not in given and len(given) < 256 and path is not None and path.exists():
            raise DataError("is no file of texts", where=given, remedy="give a .txt file or a table: " + ", ".join(SUFFIXES))
        else:
            names.append(given if len(given) <= 60 else given[:57] + "...")
            texts.append((given,))
    if not texts:
        raise DataError("there is no text", where="inputs", remedy="give texts, .txt files or tables")
    return names, texts
