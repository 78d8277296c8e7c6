"""Language modelling on plain text: the next token everywhere, perplexity and bits per byte."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from peftlab.errors import DataError, OptionError
from peftlab.tasks._cache import cached_arrays
from peftlab.tasks._causal import (
    CausalMeter,
    CausalTask,
    Documents,
    PreparedCausal,
    causal_info,
    text_ends,
)
from peftlab.tasks._stretches import Cutter, Runs
from peftlab.tasks._tokens import check_vocabulary, encoder, tokenizer_fingerprint
from peftlab.tasks.contract import Meter, Splits, TaskInfo, TextPreprocessing
from peftlab.tasks.data.contract import Role
from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.resolve import source_of

TEXTS = ("text", "content", "sentence")  #: columns that are looked for where neither the study nor the source names any
LAYOUT = "language modelling 1"  #: changed when what a cache file holds changes
MOST = 1024  #: tokens of a block where the study says nothing, if the model takes as many
METRICS = {"perplexity": False, "bits_per_byte": False, "loss": False, "token_accuracy": True}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModeling(CausalTask):
    """Which token comes next, in running text.

    Trained on blocks of C = ``context`` tokens side by side. Evaluated in windows of C tokens, S = ``stride`` tokens further each
    time, which score the tokens that no earlier window had: perplexity = exp(mean negative log-likelihood of a token), each given
    C - S to C - 1 tokens before it (fewer at the beginning of the text), as Hugging Face defines it for models with a fixed
    context. bits_per_byte = sum of the negative log-likelihoods / ln 2 / bytes (UTF-8) of the tokens scored: it makes
    tokenizers comparable.

    Without splits in the data, the end of the text is for the test and a stretch whose place follows the seed for validation.
    ``train_size`` and its like count blocks.
    """

    name: ClassVar[str] = "language-modeling"
    citation: ClassVar[str] = """@article{jelinek1977perplexity,
  title = {Perplexity---a measure of the difficulty of speech recognition tasks},
  author = {Jelinek, Frederick and Mercer, Robert L. and Bahl, Lalit R. and Baker, James K.},
  journal = {The Journal of the Acoustical Society of America}, year = {1977}, volume = {62}, number = {S1}, pages = {S63}
}"""

    text: str | None = None  #: column; default: the source's, else one with a usual name, else the only one
    join: Literal["end-of-text", "none"] = "end-of-text"  #: what follows each text; none: texts (lines, say) are one stream
    context: int | None = None  #: tokens of a block or window; default: what the model takes, at most 1024
    stride: int | None = None  #: tokens from one window to the next in evaluation; default: half of the context
    packing: bool = False  #: blocks are full as they are

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 2:
            raise OptionError(f"{self.context} tokens", where="context", remedy="2 or more")
        if self.stride is not None and self.stride < 1:
            raise OptionError(f"{self.stride} tokens", where="stride", remedy="1 or more")
        if self.context is not None and self.stride is not None:
            _check_stride(self.stride, self.context)
        CausalTask.__post_init__(self)

    def source(self) -> TextSource:
        return source_of(self.data)

    def columns(self) -> list[str]:
        """The one that a prompt, which is continued, stands in."""
        return [_texts(self.source().read(), self.text).column]

    def info(self) -> TaskInfo:
        """Without sizes: how many blocks there are, a tokenizer decides."""
        texts = _texts(self.source().read(), self.text)
        return _info({}, self.folds, texts.notes)

    def info_for(self, preprocessing: Callable[[], TextPreprocessing], cache: Path) -> TaskInfo:
        return self.prepare(preprocessing(), cache).info

    def _lengths(self, preprocessing: TextPreprocessing) -> tuple[int, int]:
        """Context and stride.

        Raises:
            OptionError: a context above what the model takes, a stride above the context.
        """
        if self.context is not None and self.context > preprocessing.max_length:
            raise OptionError(
                f"{self.context} tokens, but the model has {preprocessing.max_length} positions",
                where="context",
                remedy=f"at most {preprocessing.max_length}",
            )
        context = self.context or min(MOST, preprocessing.max_length)
        stride = self.stride or max(1, context // 2)
        _check_stride(stride, context)
        return context, stride

    def prepare(self, preprocessing: TextPreprocessing, cache: Path) -> PreparedLanguage:
        """As the contract says.

        Raises:
            OptionError: a context above what the model takes, a stride above the context, sizes that do not work out.
            DataError: bad data; a text shorter than one block; a tokenizer of another model.
            BackboneError: no tokenizer, or one without an end-of-text token.
        """
        context, stride = self._lengths(preprocessing)
        texts = _texts(self.source().read(), self.text)
        key = {
            "data": self.source().fingerprint(cache),
            "column": texts.column,
            "join": self.join,
            "tokenizer": tokenizer_fingerprint(preprocessing.tokenizer),
        }
        arrays = cached_arrays(cache / "tokens", [LAYOUT, key], lambda: self._tokenized(texts, preprocessing))
        check_vocabulary(arrays["ids"], preprocessing)
        ends = [int(end) for end in arrays["ends"]]
        parts = dict(zip(texts.parts, itertools.pairwise([0, *ends]), strict=True))
        cutter = Cutter(parts=parts, options=self.split_options(), context=context, stride=stride)
        splits = [cutter.splits(0, fold) for fold in range(self.folds or 1)]
        sizes = {split: len(splits[0][split]) for split in ("train", "validation", "test")}
        info = _info(sizes, self.folds, texts.notes)
        return PreparedLanguage(task=self, info=info, cutter=cutter, arrays=arrays, preprocessing=preprocessing)

    def _tokenized(self, texts: _Texts, preprocessing: TextPreprocessing) -> dict[str, np.ndarray]:
        """``ids`` int32 and ``bytes`` int32 [N], all texts in a row; ``ends`` int64, where each part stops.

        A byte belongs to the token that brings it, special tokens have none: the bytes of a text's tokens add up to its own.
        """
        tokenizer = encoder(preprocessing.tokenizer)
        start, end = text_ends(preprocessing.tokenizer)
        ids: list[np.ndarray] = []
        sizes: list[np.ndarray] = []
        ends: list[int] = []
        total = 0
        for part in texts.parts.values():
            pieces = [text for text in part if text] if self.join == "end-of-text" else ["".join(part)]
            for text in pieces:
                encoding = tokenizer.encode(text, add_special_tokens=False)
                close = [end] if self.join == "end-of-text" else []
                ids.append(np.array([*start, *encoding.ids, *close], dtype=np.int32))
                own = _bytes(text, np.array([stop for _, stop in encoding.offsets], dtype=np.int64))
                sizes.append(np.concatenate([np.zeros(len(start)), own, np.zeros(len(close))]).astype(np.int32))
                total += len(ids[-1])
            ends.append(total)
        flat = np.concatenate([np.empty(0, dtype=np.int32), *ids])
        bytes_ = np.concatenate([np.empty(0, dtype=np.int32), *sizes])
        return {"ids": flat, "bytes": bytes_, "ends": np.array(ends, dtype=np.int64)}

    def batch_shapes(
        self, batch: int, preprocessing: TextPreprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        context, _ = self._lengths(preprocessing)
        shapes = self.shapes(batch, context, context - 1, preprocessing)
        return {**shapes, "bytes": shapes["labels"]}


class PreparedLanguage(PreparedCausal):
    """A long row of tokens; an example is a block or a window of it."""

    def __init__(
        self,
        *,
        task: LanguageModeling,
        info: TaskInfo,
        cutter: Cutter,
        arrays: Mapping[str, np.ndarray],
        preprocessing: TextPreprocessing,
    ) -> None:
        none = np.empty(0, dtype=np.int64)
        documents = Documents(ids=arrays["ids"], starts=none, lengths=none, predicted=none)
        super().__init__(task=task, info=info, documents=documents, used=none, preprocessing=preprocessing)
        self._cutter, self._bytes = cutter, arrays["bytes"]

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self._cutter.splits(seed, fold)

    def runs(self, indices: np.ndarray) -> Runs:
        """Where examples lie. Raises IndexError for what is no block or window of this text."""
        found = Runs.decode(indices, self._cutter.context)
        bad = (found.starts < 0) | (found.starts + found.lengths > len(self._bytes)) | (found.predicted >= found.lengths)
        if bad.any():
            raise IndexError("an index that is in no split of this task")
        return found

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        return self.runs(indices).lengths if self._task.bucketing else None

    def weight(self, indices: np.ndarray) -> float:
        return float(self.runs(indices).predicted.sum())

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """As :meth:`Documents.laid_out`, and ``bytes``: those of the token that each label stands for."""
        runs, rows = self.runs(indices), np.arange(len(indices))
        place = {"starts": runs.starts, "lengths": runs.lengths, "predicted": runs.predicted}
        packed = self._task.packs(self._preprocessing)
        found = Documents(ids=self.documents.ids, **place).laid_out(rows, self._preprocessing.pad_token, packed=packed)
        return {**found, "bytes": Documents(ids=self._bytes, **place).laid_out(rows, 0, packed=packed)["labels"]}

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return LanguageMeter()


class LanguageMeter(CausalMeter):
    """Perplexity and bits per byte over all tokens scored. (That a whole window is predicted tells nothing: it is left out.)"""

    def __init__(self) -> None:
        super().__init__()
        self._bytes: list[int] = []

    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None:
        super().update(outputs, batch)
        self._bytes.append(int(batch["bytes"].sum()))

    def compute(self) -> dict[str, float]:
        found = super().compute()
        count = sum(self._bytes)
        found["bits_per_byte"] = float(self.column("loss").sum() / np.log(2) / count) if count else float("nan")
        return {name: found[name] for name in METRICS}

    def details(self) -> dict[str, Any]:
        return {**super().details(), "bytes": sum(self._bytes)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    column: str
    parts: dict[Role, list[str]]  #: in the order of the data: train, validation, test
    notes: tuple[str, ...]


def _texts(rows: Rows, column: str | None) -> _Texts:
    """The texts of each split.

    Raises:
        DataError: no such column, or none that is the text; a value that is no text; a split without any.
    """
    there = rows.names()
    known = rows.columns.get("text")
    usual = next((name for name in TEXTS if name in there), there[0] if len(there) == 1 else None)
    chosen = column or (known if isinstance(known, str) else None) or usual
    if chosen is None:
        listed = ", ".join(map(repr, there))
        raise DataError(f"which column is the text? There are {listed}", where="task.text", remedy="set text: to it")
    values = rows.texts(chosen)
    roles: Sequence[Role] = ("train", "validation", "test")
    parts: dict[Role, list[str]] = {role: [values[i] for i in rows.roles[role]] for role in roles if role in rows.roles}
    for role, texts in parts.items():
        if not any(texts):
            where = f"{rows.source} {chosen}"
            raise DataError(f"all texts of the {role} split are empty", where=where, remedy="give it texts, or another column")
    return _Texts(column=chosen, parts=parts, notes=tuple(rows.notes_beside(chosen)))


def _info(sizes: Mapping[str, int], folds: int | None, notes: tuple[str, ...]) -> TaskInfo:
    return dataclasses.replace(causal_info(sizes, folds=folds or 1, notes=notes), higher_is_better=METRICS)


def _check_stride(stride: int, context: int) -> None:
    if stride > context:
        raise OptionError(
            f"{stride} is more than the context of {context} tokens: tokens between two windows would never be scored",
            where="stride",
            remedy=f"at most {context}",
        )


def _bytes(text: str, stops: np.ndarray) -> np.ndarray:
    """Bytes (UTF-8) that each token brings, int64 [T]; ``stops``: where its characters end, int64 [T]."""
    widths = np.zeros(len(text) + 1, dtype=np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths[1:] = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    reached = np.cumsum(widths)[np.maximum.accumulate(stops)]
    if len(reached):
        reached[-1] = widths.sum()  # what a tokenizer drops behind the last token
    return np.diff(reached, prepend=0)
