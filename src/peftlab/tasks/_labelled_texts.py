"""What tasks share whose examples are texts, or pairs of texts, with one target each: columns, tokens, batches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from peftlab.errors import DataError, OptionError
from peftlab.tasks._copies import overlap
from peftlab.tasks._split_task import SplitTask, places
from peftlab.tasks._splits import Splitter
from peftlab.tasks._tokens import Tokens, cached, longest_text, tokenize, tokenizer_fingerprint
from peftlab.tasks.contract import Head, Meter, PreparedTask, Splits, TaskInfo, TextPreprocessing
from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.resolve import source_of

#: columns that are looked for where neither the study nor the source names any
TEXTS: tuple[tuple[str, ...], ...] = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("text",), ("sentence",))
_LONGEST, _SAMPLE = 64, 512  #: how many texts are tokenized to plan with: the longest decide memory, the others time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Texts with their targets, numbered through all rows."""

    rows: Rows
    columns: list[str]  #: of text
    texts: list[list[str]]
    labels: np.ndarray  #: one target a row
    label_names: tuple[str, ...]  #: of the outputs
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts(SplitTask):
    """Base: a subclass reads the targets, describes them, and says loss and meter; on encoders and on causal models."""

    input_kind: ClassVar[Literal["image", "text"]] = "text"
    head: ClassVar[Head] = "sequence-classification"
    usual: ClassVar[tuple[str, ...]]  #: columns of the target that are looked for where neither study nor source names one
    target_type: ClassVar[torch.dtype]  #: of a batch's labels
    flattered: ClassVar[str]  #: what test texts that were trained on make look better

    text: str | tuple[str, ...] | None = None  #: column, or two for pairs; default: the source's, else one with a usual name
    label: str | None = None  #: column; default: the source's, else one with a usual name
    max_length: int | None = None  #: tokens, special ones included; default: as many as the model takes
    bucketing: bool = True  #: texts of similar length share a batch

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 4:
            raise OptionError(f"{self.max_length} tokens", where="max_length", remedy="4 or more")
        if isinstance(self.text, tuple) and len(set(self.text)) not in (1, 2):
            raise OptionError(f"{len(set(self.text))} columns of text", where="text", remedy="one, or two for pairs")
        SplitTask.__post_init__(self)

    @abstractmethod
    def targets(self, rows: Rows, column: str) -> tuple[Sequence[str], np.ndarray]:
        """Names of the outputs, and the target of every row.

        Raises:
            DataError: a value that is no target; names its row.
        """

    @abstractmethod
    def splitter(self, examples: Examples) -> Splitter:
        """How they are cut."""

    @abstractmethod
    def described(self, examples: Examples) -> TaskInfo:
        """Sizes, metrics and levels."""

    @abstractmethod
    def meter(self, info: TaskInfo) -> Meter:
        """A meter of these outputs."""

    def source(self) -> TextSource:
        """The configured source of texts."""
        return source_of(self.data)

    def columns(self) -> list[str]:
        """The columns of text: one, or two for pairs."""
        return self.examples().columns

    def fingerprint(self) -> str:
        return _identity(self.source().fingerprint(), self.examples())

    def info(self) -> TaskInfo:
        return self.described(self.examples())

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in batch.items() if name != "labels"}

    def examples(self) -> Examples:
        """Columns found, texts checked, targets read.

        Raises:
            DataError: no such column, a value that is no text or no target.
        """
        rows = self.source().read()
        columns, target = _columns(rows, self.text, self.label, self.usual)
        rows = rows.labelled(target)
        texts, empty = _texts(rows, columns)
        label_names, labels = self.targets(rows, target)
        notes = rows.notes_beside(*columns, target)
        if empty:
            notes.append(f"{empty} texts are empty")
        names = tuple(label_names)
        return Examples(rows=rows, columns=columns, texts=texts, labels=labels, label_names=names, notes=tuple(notes))

    def prepare(self, preprocessing: TextPreprocessing, cache: Path) -> PreparedTexts:
        """As the contract says.

        Raises:
            OptionError: ``max_length`` above what the model takes; sizes or shares that do not work out.
            DataError: bad data; a tokenizer of another model.
            BackboneError: no tokenizer.
        """
        longest = longest_text(self.max_length, preprocessing)
        examples = self.examples()
        splitter = self.splitter(examples)
        used = splitter.used()
        key = {
            "data": _identity(self.source().fingerprint(cache), examples),
            "columns": examples.columns,
            "tokenizer": tokenizer_fingerprint(preprocessing.tokenizer),
            "longest": longest,
            "used": [int(i) for i in used] if len(used) < len(examples.labels) else "all",
        }
        first = [examples.texts[0][i] for i in used]
        second = [examples.texts[1][i] for i in used] if len(examples.texts) == 2 else None
        tokens = cached(key, cache, lambda: tokenize(first, second, preprocessing, longest))
        info = self.described(examples)
        contents = list(zip(*examples.texts, strict=True))
        found = (_cut_note(tokens, longest), overlap(splitter, contents, what="texts", flattered=self.flattered))
        info = dataclasses.replace(info, warnings=(*info.warnings, *(note for note in found if note)))
        return PreparedTexts(
            task=self,
            info=info,
            splitter=splitter,
            used=used,
            tokens=tokens,
            pad_token=preprocessing.pad_token,
            labels=examples.labels,
        )

    def batch_shapes(
        self, batch: int, preprocessing: TextPreprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """As long as the longest text."""
        tokens = self._some(preprocessing)[0]
        shape = ((batch, int(tokens.lengths.max(initial=1))), torch.int64)
        types = {} if tokens.types is None else {"token_type_ids": shape}
        return {"input_ids": shape, **types, "attention_mask": shape, "labels": ((batch,), self.target_type)}

    def fill(self, batch: int, preprocessing: TextPreprocessing) -> float:
        """By texts taken from all over the data: a batch of similar ones is as long as each, another as long as its longest."""
        longest, sample = self._some(preprocessing)
        lengths = sample.lengths
        if not self.bucketing:
            lengths = np.maximum.reduceat(lengths, np.arange(0, len(lengths), batch))
        return float(lengths.mean() / longest.lengths.max(initial=1))

    def _some(self, preprocessing: TextPreprocessing) -> tuple[Tokens, Tokens]:
        """Of the texts used: those longest in characters, and some from all over, both as tokens."""
        examples = self.examples()
        used = self.splitter(examples).used()
        size = np.array([sum(len(texts[i]) for texts in examples.texts) for i in used])
        longest = longest_text(self.max_length, preprocessing)
        found = []
        for rows in (used[np.argsort(-size, kind="stable")[:_LONGEST]], used[:: max(1, len(used) // _SAMPLE)]):
            texts = [[column[i] for i in rows] for column in examples.texts]
            found.append(tokenize(texts[0], texts[1] if len(texts) == 2 else None, preprocessing, longest))
        return found[0], found[1]


class PreparedTexts(PreparedTask):
    """Token ids, padded to the longest text of each batch; example ``used[i]`` in row i."""

    def __init__(
        self,
        *,
        task: LabelledTexts,
        info: TaskInfo,
        splitter: Splitter,
        used: np.ndarray,
        tokens: Tokens,
        pad_token: int,
        labels: np.ndarray,
    ) -> None:
        self.task, self.info = task, info
        self.splitter, self.used = splitter, used
        self._tokens, self._pad, self._bucketing, self._labels = tokens, pad_token, task.bucketing, labels
        self._meter = task.meter

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self.splitter.splits(seed, fold)

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        return self._tokens.lengths[places(self.used, indices)] if self._bucketing else None

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` (``token_type_ids``) int64 [B, T], ``labels`` [B] of the task's ``target_type``."""
        indices = np.asarray(indices, dtype=np.int64)
        return {**self._tokens.padded(places(self.used, indices), self._pad), "labels": torch.from_numpy(self._labels[indices])}

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return self._meter(self.info)


def _columns(rows: Rows, text: str | tuple[str, ...] | None, label: str | None, usual: Sequence[str]) -> tuple[list[str], str]:
    """(columns of text, column of the target).

    Raises:
        DataError: which ones is not clear, or one is both.
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
    target = label or rows.columns.get("label") or next((name for name in usual if name in there), None)
    if not isinstance(target, str):
        _in_all_parts(rows, usual)
        listed = ", ".join(map(repr, there))
        raise DataError(f"which column is the label? There are {listed}", where="task.label", remedy="set label: to it")
    if target in columns:
        raise DataError(f"{target!r} is the label and the text", where="task.text", remedy="name two columns")
    return columns, target


def _texts(rows: Rows, columns: Sequence[str]) -> tuple[list[list[str]], int]:
    """The values of each column, and how many are empty.

    Raises:
        DataError: one is no text, or all are empty.
    """
    texts = [rows.texts(name) for name in columns]
    empty = sum(not text.strip() for values in texts for text in values)
    if empty and empty == len(rows) * len(columns):
        where = " ".join([rows.source, *columns])
        raise DataError("every text is empty", where=where, remedy="set text: to the column of the texts")
    return texts, empty


def _identity(content: str, examples: Examples) -> str:
    """Hash of the data that are used: those of the source, which reads all splits, less the splits without targets."""
    left = examples.rows.left_out
    return hashlib.sha256(f"{content} without {json.dumps(left)}".encode()).hexdigest() if left else content


def _in_all_parts(rows: Rows, usual: Sequence[str]) -> None:
    """Raises DataError for a column of a usual name that some split lacks."""
    for name in usual:
        if any(name in part.columns for part in rows.parts):
            rows.column(name)


def _cut_note(tokens: Tokens, longest: int) -> str | None:
    count = int(tokens.cut.sum())
    return f"{count:,} of {len(tokens.cut):,} texts are longer than {longest} tokens and were cut" if count else None
