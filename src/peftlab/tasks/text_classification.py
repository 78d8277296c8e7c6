"""Classification of texts and of pairs of texts: one label each, cross-entropy, accuracy and F1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from peftlab import mistakes
from peftlab.errors import DataError, OptionError, nearest
from peftlab.tasks._classes import ClassificationTask, PreparedClassification, describe
from peftlab.tasks._metrics import ClassificationMeter
from peftlab.tasks._splits import Splitter
from peftlab.tasks._tokens import Tokens, cached, longest_text, tokenize, tokenizer_fingerprint
from peftlab.tasks.contract import Head, Meter, TaskInfo, TextPreprocessing
from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.resolve import source_of

#: columns that are looked for where neither the study nor the source names any
TEXTS: tuple[tuple[str, ...], ...] = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("text",), ("sentence",))
LABELS = ("label", "labels", "class")
_LONGEST, _SAMPLE = 64, 512  #: how many texts are tokenized to plan with: the longest decide memory, the others time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextClassification(ClassificationTask):
    """Which of K classes a text, or a pair of texts, belongs to; on encoders and on causal models (their last token).

    F1 is that of the second of two classes (GLUE's positive one).
    """

    name: ClassVar[str] = "text-classification"
    input_kind: ClassVar[Literal["image", "text"]] = "text"
    head: ClassVar[Head] = "sequence-classification"

    text: str | tuple[str, ...] | None = None  #: column, or two for pairs; default: the source's, else one with a usual name
    label: str | None = None  #: column; default: the source's, else label
    label_names: tuple[str, ...] | None = None  #: in the order of the classes; default: the source's, else those found, sorted
    max_length: int | None = None  #: tokens, special ones included; default: as many as the model takes
    bucketing: bool = True  #: texts of similar length share a batch

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 4:
            raise OptionError(f"{self.max_length} tokens", where="max_length", remedy="4 or more")
        if isinstance(self.text, tuple) and len(set(self.text)) not in (1, 2):
            raise OptionError(f"{len(set(self.text))} columns of text", where="text", remedy="one, or two for pairs")
        if self.label_names is not None and len(set(self.label_names)) < max(2, len(self.label_names)):
            raise OptionError("two classes or more, each once", where="label_names", remedy="e.g. [negative, positive]")
        ClassificationTask.__post_init__(self)

    def source(self) -> TextSource:
        """The configured source of texts."""
        return source_of(self.data)

    def columns(self) -> list[str]:
        """The columns of text: one, or two for pairs."""
        return self._read().columns

    def info(self) -> TaskInfo:
        return self._described(self._read())

    def _read(self) -> _Examples:
        return _examples(self.source().read(), self.text, self.label, self.label_names)

    def _splitter(self, examples: _Examples) -> Splitter:
        return Splitter(
            labels=examples.labels, label_names=examples.label_names, roles=examples.rows.roles, options=self.split_options()
        )

    def _described(self, examples: _Examples) -> TaskInfo:
        positive = 1 if len(examples.label_names) == 2 else None
        return describe(self._splitter(examples), examples.notes, positive=positive)

    def prepare(self, preprocessing: TextPreprocessing, cache: Path) -> PreparedTextClassification:
        """As the contract says.

        Raises:
            OptionError: ``max_length`` above what the model takes; sizes or shares that do not work out.
            DataError: bad data; a tokenizer of another model.
            BackboneError: no tokenizer.
        """
        longest = longest_text(self.max_length, preprocessing)
        examples = self._read()
        splitter = self._splitter(examples)
        used = splitter.used()
        key = {
            "data": self.source().fingerprint(cache),
            "columns": examples.columns,
            "tokenizer": tokenizer_fingerprint(preprocessing.tokenizer),
            "longest": longest,
            "used": [int(i) for i in used] if len(used) < len(examples.labels) else "all",
        }
        first = [examples.texts[0][i] for i in used]
        second = [examples.texts[1][i] for i in used] if len(examples.texts) == 2 else None
        tokens = cached(key, cache, lambda: tokenize(first, second, preprocessing, longest))
        info = self._described(examples)
        found = (_cut_note(tokens, longest), _overlap(splitter, examples))
        info = dataclasses.replace(info, warnings=(*info.warnings, *(note for note in found if note)))
        return PreparedTextClassification(
            task=self, info=info, splitter=splitter, used=used, tokens=tokens, pad_token=preprocessing.pad_token
        )

    def batch_shapes(
        self, batch: int, preprocessing: TextPreprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """As long as the longest text."""
        tokens = self._some(preprocessing)[0]
        shape = ((batch, int(tokens.lengths.max(initial=1))), torch.int64)
        types = {} if tokens.types is None else {"token_type_ids": shape}
        return {"input_ids": shape, **types, "attention_mask": shape, "labels": ((batch,), torch.int64)}

    def fill(self, batch: int, preprocessing: TextPreprocessing) -> float:
        """By texts taken from all over the data: a batch of similar ones is as long as each, another as long as its longest."""
        longest, sample = self._some(preprocessing)
        lengths = sample.lengths
        if not self.bucketing:
            lengths = np.maximum.reduceat(lengths, np.arange(0, len(lengths), batch))
        return float(lengths.mean() / longest.lengths.max(initial=1))

    def _some(self, preprocessing: TextPreprocessing) -> tuple[Tokens, Tokens]:
        """Of the texts used: those longest in characters, and some from all over, both as tokens."""
        examples = self._read()
        used = self._splitter(examples).used()
        size = np.array([sum(len(texts[i]) for texts in examples.texts) for i in used])
        longest = longest_text(self.max_length, preprocessing)
        found = []
        for rows in (used[np.argsort(-size, kind="stable")[:_LONGEST]], used[:: max(1, len(used) // _SAMPLE)]):
            texts = [[column[i] for i in rows] for column in examples.texts]
            found.append(tokenize(texts[0], texts[1] if len(texts) == 2 else None, preprocessing, longest))
        return found[0], found[1]


class PreparedTextClassification(PreparedClassification):
    """Token ids, padded to the longest text of each batch."""

    def __init__(
        self, *, task: TextClassification, info: TaskInfo, splitter: Splitter, used: np.ndarray, tokens: Tokens, pad_token: int
    ) -> None:
        super().__init__(task=task, info=info, splitter=splitter, used=used)
        self._tokens, self._pad, self._bucketing = tokens, pad_token, task.bucketing

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        return self._tokens.lengths[self.rows(indices)] if self._bucketing else None

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` (``token_type_ids``) int64 [B, T], ``labels`` int64 [B]."""
        indices = np.asarray(indices, dtype=np.int64)
        return {**self._tokens.padded(self.rows(indices), self._pad), "labels": self.labels(indices)}

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return ClassificationMeter(self.info.label_names, positive=1 if len(self.info.label_names) == 2 else None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Examples:
    rows: Rows
    columns: list[str]  #: of text
    texts: list[list[str]]
    labels: np.ndarray
    label_names: tuple[str, ...]
    notes: tuple[str, ...]


def _examples(rows: Rows, text: str | tuple[str, ...] | None, label: str | None, names: tuple[str, ...] | None) -> _Examples:
    """Columns found, texts checked, labels numbered.

    Raises:
        DataError: no such column, a value that is no text, a label that is none of the names.
    """
    there = rows.names()
    known = rows.columns.get("text")
    chosen = text or known or next((found for found in TEXTS if all(name in there for name in found)), None)
    if chosen is None:
        _in_all_parts(rows, [name for found in TEXTS for name in found])
        listed = ", ".join(map(repr, there))
        raise DataError(
            f"which column is the text? There are {listed}", where="task.text", remedy="set text: to it (or to two, for pairs)"
        )
    columns = [chosen] if isinstance(chosen, str) else list(dict.fromkeys(chosen))
    target = label or rows.columns.get("label") or next((name for name in LABELS if name in there), None)
    if not isinstance(target, str):
        _in_all_parts(rows, LABELS)
        listed = ", ".join(map(repr, there))
        raise DataError(f"which column is the label? There are {listed}", where="task.label", remedy="set label: to it")
    if target in columns:
        raise DataError(f"{target!r} is the label and the text", where="task.text", remedy="name two columns")
    texts = [rows.column(name) for name in columns]
    empty = 0
    for name, values in zip(columns, texts, strict=True):
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(
                    f"{mistakes.kind(value)} in place of a text", where=f"{rows.where(index)} {name}", remedy="give a text"
                )
            empty += not value.strip()
    given = rows.columns.get("label_names") if label in (None, rows.columns.get("label")) else None
    values = rows.columns.get("label_values")
    label_names, labels = _numbered(
        rows, target, names or (tuple(given) if given else None), tuple(values) if values and not names else None
    )
    unused = [name for name in there if name not in (*columns, target)]
    notes = [*rows.notes, *([f"columns that are not used: {', '.join(unused)}"] if unused else [])]
    if empty:
        if empty == len(rows) * len(columns):
            raise DataError("every text is empty", where=" ".join(columns), remedy="set text: to the column of the texts")
        notes.append(f"{empty} texts are empty")
    return _Examples(rows=rows, columns=columns, texts=texts, labels=labels, label_names=tuple(label_names), notes=tuple(notes))


def _in_all_parts(rows: Rows, usual: Sequence[str]) -> None:
    """Raises DataError for a column of a usual name that some split lacks."""
    for name in usual:
        if any(name in part.columns for part in rows.parts):
            rows.column(name)


def _numbered(
    rows: Rows, column: str, names: Sequence[str] | None, values: Sequence[str] | None
) -> tuple[Sequence[str], np.ndarray]:
    """Label names, and labels int64 [N]. ``values``: what stands for each name in the data, where that is not the name."""
    raw = rows.column(column)
    bad = next((i for i, value in enumerate(raw) if not isinstance(value, str | int) or value == ""), None)
    if bad is not None:
        what = "no label" if raw[bad] in (None, "") else f"{mistakes.kind(raw[bad])} in place of a label"
        raise DataError(what, where=f"{rows.where(bad)} {column}", remedy="give a string or a whole number, or remove the row")
    written = [str(value) for value in raw]
    distinct = set(written)
    numeric = all(value.isdecimal() for value in distinct)
    if names is None:
        values = names = sorted(distinct, key=int) if numeric else sorted(distinct)
        alike: dict[str, str] = {}
        for value in values:
            if (other := alike.setdefault(value.strip().casefold(), value)) != value:
                what = f"labels {other!r} and {value!r} differ in case or spaces only"
                where = rows.where(written.index(value))
                raise DataError(what, where=where, remedy="write them alike, or list both in label_names")
        if len(distinct) > max(50, len(written) // 4):
            what = f"{len(distinct)} different labels in {len(written)} rows"
            raise DataError(what, where=column, remedy="this does not look like classes; set label: to another column")
    elif values is None or not distinct <= set(values):
        values = [str(i) for i in range(len(names))] if numeric and not distinct <= set(names) else list(names)
    number = {value: i for i, value in enumerate(values)}
    wrong = next((i for i, value in enumerate(written) if value not in number), None)
    if wrong is not None:
        count = sum(value not in number for value in written)
        raise DataError(
            f"label {written[wrong]!r} is none of {', '.join(map(repr, values))} ({count} such rows)",
            where=f"{rows.where(wrong)} {column}",
            remedy=nearest(written[wrong], list(values)),
        )
    return names, np.array([number[value] for value in written], dtype=np.int64)


def _cut_note(tokens: Tokens, longest: int) -> str | None:
    count = int(tokens.cut.sum())
    return f"{count:,} of {len(tokens.cut):,} texts are longer than {longest} tokens and were cut" if count else None


def _overlap(splitter: Splitter, examples: _Examples) -> str | None:
    """The sentence about test texts that are also among the others, word for word; with folds: about texts that come twice."""
    texts = [tuple(column[i] for column in examples.texts) for i in range(len(examples.labels))]
    if splitter.options.folds:
        used = [texts[i] for i in splitter.used()]
        twice = len(used) - len(set(used))
        return f"{twice} texts are copies of others, so folds share texts" if twice else None
    fixed = splitter.fixed()
    others = {texts[i] for part in (fixed.pool, fixed.validation) if part is not None for i in part}
    shared = sum(texts[i] in others for i in fixed.test)
    if not shared:
        return None
    return f"{shared} of {len(fixed.test)} test texts are also in train or validation, word for word: accuracy is flattered"
