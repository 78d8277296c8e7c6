"""What tasks share whose model predicts the next token: documents, batches, loss and perplexity.

A document is a run of tokens of which the last are predicted, each from all that stand before it. B documents in a batch, in R
rows of T tokens, V tokens in the vocabulary, N tokens of the batch are predicted. Only for these the model gives logits, [N, V]:
with 50,000 words the logits of all tokens are most of a batch's memory, and a third of GPT-2's products.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn import functional

from peftlab.errors import BackboneError
from peftlab.tasks._packing import block_causal_mask, first_fit_decreasing
from peftlab.tasks._split_task import SplitTask, places
from peftlab.tasks._tokens import Tokens, load_tokenizer
from peftlab.tasks.contract import Head, Meter, PreparedTask, TaskInfo, TextPreprocessing

_AT_ONCE = 256  #: predicted tokens whose probabilities are computed together: with 50,000 words 50 MB
HIGHER_IS_BETTER = {"perplexity": False, "loss": False, "token_accuracy": True, "exact_match": True}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """N runs of tokens, which may overlap."""

    ids: np.ndarray  #: int32, all tokens
    starts: np.ndarray  #: int64 [N]: document i is ids[starts[i] : starts[i] + lengths[i]]
    lengths: np.ndarray  #: int64 [N]
    predicted: np.ndarray  #: int64 [N]: how many of its last tokens are predicted, 1 .. length - 1

    @classmethod
    def of(cls, tokens: Tokens) -> Documents:
        """Texts whose second part (``types`` 1) is predicted."""
        assert tokens.types is not None
        until = np.concatenate([[0], np.cumsum(tokens.types, dtype=np.int64)])
        predicted = np.minimum(until[tokens.offsets[1:]] - until[tokens.offsets[:-1]], tokens.lengths - 1)
        return cls(ids=tokens.ids, starts=tokens.offsets[:-1], lengths=tokens.lengths, predicted=predicted)

    def laid_out(self, rows: np.ndarray, pad_token: int, *, packed: bool) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and, if packed, ``position_ids``, int64 [R, T]; ``places`` and ``labels``, int64 [N].

        A row holds one document, or as many as fit beside the longest of the batch, and padding at its end. ``attention_mask``
        numbers the documents from 1, in the order of ``rows``; 0 is padding. Positions begin at 0 in every document. ``labels``
        are the predicted tokens, row after row, and ``places`` where each is predicted from: the token before it, counted
        through all rows. They are shifted here and nowhere else.
        """
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=1))
        places = first_fit_decreasing(lengths.tolist(), longest) if packed else [[number] for number in range(len(rows))]
        shape = (len(places), longest)
        found = {
            "input_ids": np.full(shape, pad_token, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
        }
        if packed:
            found["position_ids"] = np.zeros(shape, dtype=np.int64)
        wanted, labels = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for row, numbers in enumerate(places):
            begin = 0
            for number in numbers:
                start, length, predicted = (int(a[rows[number]]) for a in (self.starts, self.lengths, self.predicted))
                tokens, here = self.ids[start : start + length], slice(begin, begin + length)
                found["input_ids"][row, here] = tokens
                labels.append(tokens[length - predicted :].astype(np.int64))
                wanted.append(row * longest + begin + np.arange(length - 1 - predicted, length - 1, dtype=np.int64))
                found["attention_mask"][row, here] = number + 1
                if packed:
                    found["position_ids"][row, here] = np.arange(length)
                begin += length
        found |= {"places": np.concatenate(wanted), "labels": np.concatenate(labels)}
        return {name: torch.from_numpy(array) for name, array in found.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CausalTask(SplitTask):
    """Prediction of the next token by a causal model; loss and perplexity over the predicted tokens."""

    input_kind: ClassVar[Literal["image", "text"]] = "text"
    head: ClassVar[Head] = "causal-lm"

    packing: bool = True  #: the texts of a batch share rows, with attention and positions of their own
    bucketing: bool = False  #: texts of similar length share a batch; faster still where batches are small, less random

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        texts, found = batch["attention_mask"], {name: batch[name] for name in ("input_ids", "places")}
        if "position_ids" not in batch:
            return {**found, "attention_mask": (texts > 0).long()}
        return {**found, "attention_mask": block_causal_mask(texts), "position_ids": batch["position_ids"]}

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy of logits [N, V], computed in float32, mean over the predicted tokens, in nats."""
        return functional.cross_entropy(outputs.float(), batch["labels"], label_smoothing=label_smoothing)

    def prompt(self, texts: Sequence[str]) -> str:
        """What the model is to continue, from one text a column of training (the first is enough)."""
        return texts[0]

    def packs(self, preprocessing: TextPreprocessing) -> bool:
        return self.packing and not preprocessing.unpackable

    def shapes(
        self, batch: int, longest: int, predicted: int, preprocessing: TextPreprocessing
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Of a batch of documents all as long as the longest, with the most predicted tokens: no batch is larger."""
        names = ("input_ids", "attention_mask", *(["position_ids"] if self.packs(preprocessing) else []))
        flat = dict.fromkeys(("places", "labels"), ((batch * predicted,), torch.int64))
        return {**dict.fromkeys(names, ((batch, longest), torch.int64)), **flat}

    def filled(self, lengths: np.ndarray, longest: int, batch: int, preprocessing: TextPreprocessing) -> float:
        """Tokens of an average batch, padding included, as a share of those of :meth:`shapes`.

        Args:
            lengths: of documents from all over the data, in random order.
        """
        sizes = []
        for start in range(0, len(lengths), batch):
            some = lengths[start : start + batch]
            packed = self.packs(preprocessing)
            rows = len(first_fit_decreasing(some.tolist(), int(some.max()))) if packed else len(some)
            sizes.append(some.sum() if self.bucketing and not packed else rows * some.max())
        return float(np.sum(sizes) / (len(lengths) * longest)) if sizes else 1.0


def causal_info(sizes: Mapping[str, int], *, folds: int = 1, notes: tuple[str, ...] = ()) -> TaskInfo:
    """Of a task without classes. Uniform guessing has as perplexity the size of a vocabulary, which is the model's."""
    return TaskInfo(
        outputs=0,
        label_names=(),
        sizes=sizes,
        higher_is_better=HIGHER_IS_BETTER,
        primary_metric="perplexity",
        chance={},
        majority={},
        bounds=dict.fromkeys(("perplexity", "bits_per_byte"), (0.0, math.inf)),
        notes=notes,
        folds=folds,
    )


class PreparedCausal(PreparedTask):
    """Documents that lie ready: example ``used[i]`` is document i."""

    def __init__(
        self, *, task: CausalTask, info: TaskInfo, documents: Documents, used: np.ndarray, preprocessing: TextPreprocessing
    ) -> None:
        self.task = self._task = task
        said = (f"packing is off: {preprocessing.unpackable}",) if task.packing and preprocessing.unpackable else ()
        self.info = dataclasses.replace(info, warnings=(*info.warnings, *said))
        self.documents, self.used, self._preprocessing = documents, used, preprocessing

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Which documents, int64 [B]. Raises IndexError for an example that no split has."""
        return places(self.used, indices)

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        return self.documents.lengths[self.rows(indices)] if self._task.bucketing else None

    def weight(self, indices: np.ndarray) -> float:
        return float(self.documents.predicted[self.rows(indices)].sum())

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """As :meth:`Documents.laid_out`."""
        rows = self.rows(np.asarray(indices, dtype=np.int64))
        packed = self._task.packs(self._preprocessing)
        return self.documents.laid_out(rows, self._preprocessing.pad_token, packed=packed)

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return CausalMeter()


class CausalMeter(Meter):
    """Collects logits [N, V] of the predicted tokens of batches of documents.

    loss: mean negative log-likelihood over all predicted tokens, in nats. perplexity: its exponential. token_accuracy: share of
    the predicted tokens that are the likeliest, given the true tokens before them. exact_match: share of documents all of whose
    predicted tokens are.

    An exact match is the event that greedy decoding, from what stands before the predicted tokens, gives these tokens. Let p be
    the prefix and r_1 .. r_n the predicted tokens. If r_k = argmax P(. | p r_1 .. r_{k-1}) for all k, then greedy decoding gives
    r_1, and, having given r_1 .. r_{k-1}, gives r_k. If it gives r_1 .. r_n, then it chose r_k as argmax after p r_1 .. r_{k-1},
    for each k. So one pass with the true prefixes tells what decoding would, as long as ties are broken alike.

    A document with an output that is not finite is no match, and loss and perplexity are NaN.
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {"loss": [], "tokens": [], "correct": []}

    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None:
        labels, texts = batch["labels"], batch["attention_mask"].flatten()
        losses, hits = [], []
        for some, wanted in zip(outputs.detach().split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
            chosen = some.float()
            losses.append(functional.cross_entropy(chosen, wanted, reduction="none"))
            hits.append((chosen.argmax(1) == wanted) & losses[-1].isfinite())
        numbers = np.unique(texts[texts > 0].cpu().numpy())
        place = np.searchsorted(numbers, texts[batch["places"]].cpu().numpy())
        loss, hit = (torch.cat(parts).cpu().numpy().astype(np.float64) for parts in (losses, hits))
        for name, values in (("loss", loss), ("tokens", np.ones_like(loss)), ("correct", hit)):
            self._columns[name].append(np.bincount(place, weights=values, minlength=len(numbers)))

    def column(self, name: str) -> np.ndarray:
        """Sums over the predicted tokens of each document, float64 [N]."""
        return np.concatenate([np.empty(0), *self._columns[name]])

    def compute(self) -> dict[str, float]:
        tokens, correct = self.column("tokens"), self.column("correct")
        if not tokens.sum():
            return dict.fromkeys(HIGHER_IS_BETTER, float("nan"))
        loss = self.column("loss").sum() / tokens.sum()
        with np.errstate(over="ignore"):
            perplexity = np.exp(loss)
        return {
            "perplexity": float(perplexity),
            "loss": float(loss),
            "token_accuracy": float(correct.sum() / tokens.sum()),
            "exact_match": float((correct == tokens).mean()),
        }

    def details(self) -> dict[str, Any]:
        """Documents, predicted tokens, and how many documents have an output that is not finite."""
        tokens, loss = self.column("tokens"), self.column("loss")
        return {"documents": len(tokens), "tokens": int(tokens.sum()), "not_finite": int((~np.isfinite(loss)).sum())}

    def predictions(self) -> dict[str, np.ndarray]:
        """Per document ``loss`` float64 (nats, sum over its predicted tokens), ``tokens`` and ``correct`` int64, ``exact_match``
        bool; [N], in the order they were seen."""
        tokens, correct = (self.column(name).astype(np.int64) for name in ("tokens", "correct"))
        return {"loss": self.column("loss"), "tokens": tokens, "correct": correct, "exact_match": correct == tokens}


def text_ends(name: str) -> tuple[list[int], int]:
    """What a tokenizer puts before a text (Llama: its start token; GPT-2: nothing), and its end-of-text token.

    Raises:
        BackboneError: it has no end-of-text token.
    """
    tokenizer = load_tokenizer(name)
    end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
    if end is None:
        raise BackboneError(
            "its tokenizer has no end-of-text token, so no text would ever end",
            where=name,
            remedy="set eos_token in tokenizer_config.json to a token of its vocabulary",
        )
    return ([start] if start is not None and tokenizer("a")["input_ids"][:1] == [start] else []), int(end)
