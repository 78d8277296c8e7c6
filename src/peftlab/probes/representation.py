"""Representation: how far training moved what every block puts out, on a fixed set of examples.

Shape legend: B rows of a batch, T tokens, d width of a block, n rows looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.contract import Probe, View, looking

FILE, ARRAYS = "representation.json", "representation.npz"
MOST = 64  #: examples
SIZE = 8  #: of a batch: less than training holds
FEWEST = 4  #: rows that the unbiased estimate needs
SHORT, SAME = 8, 1e-4  #: tokens of the text that shows whether a model is causal, and what is rounding there
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
Token = Literal["class", "last", "mean"]
Array = NDArray[np.float64]


def linear_cka(x: Array, y: Array, *, unbiased: bool = True) -> float | None:
    """Linear centred kernel alignment of x [n, d1] and y [n, d2], rows being the same examples (Kornblith et al. 2019).

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = x x^T, L = y y^T. The biased HSIC of the paper, tr(K H L H), is near
    1 for anything where n is not far above d; the unbiased one (Song et al. 2012) takes the diagonals out. None where a side is
    constant over the examples, or n is below 4.
    """
    if len(x) < FEWEST:
        return None
    grams = [_centred(v, unbiased) for v in (x, y)]
    sizes = [np.linalg.norm(gram) for gram in grams]
    if any(not size > 1e-12 * np.square(v).sum() for size, v in zip(sizes, (x, y), strict=True)):
        return None
    return float((grams[0] * grams[1]).sum() / (sizes[0] * sizes[1]))


def _centred(x: Array, unbiased: bool) -> Array:
    """The Gram matrix [n, n], doubly centred; unbiased: as Song et al., with a diagonal of zeros."""
    moved = x - x.mean(axis=0)
    gram, n = moved @ moved.T, len(x)
    if not unbiased:
        return gram
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0)
    gram -= (sums[:, None] + sums[None, :]) / (n - 2)
    gram += sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(gram, 0.0)
    return gram


def moved(base: Array, tuned: Array) -> dict[str, float | None]:
    """What is recorded of one block: both [n, d]."""
    norm, rows = np.linalg.norm(base), np.linalg.norm(base, axis=1) * np.linalg.norm(tuned, axis=1)
    cosines = np.divide((base * tuned).sum(axis=1), rows, out=np.full(len(base), np.nan), where=rows > 0)
    found = {
        "cka": linear_cka(base, tuned),
        "cka_biased": linear_cka(base, tuned, unbiased=False),
        "drift": float(np.linalg.norm(tuned - base) / norm) if norm else None,
        "cosine": float(np.nanmean(cosines)) if np.isfinite(cosines).any() else None,
    }
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


@contextlib.contextmanager
def _outputs(backbone: Backbone) -> Iterator[list[torch.Tensor]]:
    """What every block puts out in the next forward passes, block by block, pass by pass."""
    seen: list[torch.Tensor] = []

    def keep(_block: nn.Module, _args: Any, output: Any) -> None:
        seen.append(output if torch.is_tensor(output) else output[0])

    handles = [backbone.module.get_submodule(name).register_forward_hook(keep) for name in backbone.roles.names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def token_of(adapted: Adapted, inputs: Mapping[str, torch.Tensor], mask: torch.Tensor | None = None) -> Token:
    """The token that stands for an example: images class token, else mean; texts last token of a causal model, else the first.

    Causal is a model whose first token does not see the last: the begin of one text is read twice, with another last token.
    """
    module = adapted.backbone.module
    ids = inputs.get("input_ids")
    if ids is None:
        averages = str(getattr(module, "global_pool", "")).startswith("avg")
        has = any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in module.named_parameters())
        return "class" if has and not averages else "mean"
    first, last = (int(end) for end in _ends(None if mask is None else mask[:1], ids[:1]))
    places = slice(first, min(first + SHORT, last + 1))
    # What is flat says where logits are wanted, which are not looked at.
    one = {key: _cut(value[:1], ids.shape[1], places) for key, value in inputs.items() if value.dim() > 1}
    changed = one["input_ids"].clone()
    changed[0, -1] = next((value for value in (*changed[0].tolist(), 0) if value != changed[0, -1]), 1)
    with _outputs(adapted.backbone) as seen:
        for tokens in (one["input_ids"], changed):
            adapted.backbone.outputs(adapted.module, {**one, "input_ids": tokens})
    before, after = (seen[i][0, 0] for i in (0, len(seen) // 2))
    return "last" if (after - before).norm() <= SAME * before.norm() else "class"


def _cut(value: torch.Tensor, length: int, places: slice) -> torch.Tensor:
    """These places of every axis that counts tokens (masks of packed rows have two)."""
    return value[(slice(None), *(places if size == length else slice(None) for size in value.shape[1:]))]


def _ends(mask: torch.Tensor | None, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places [B] of the first and last real token of ``like`` [B, T, ...]; all are real without a mask of this shape."""
    if mask is None or mask.shape != like.shape[:2]:
        whole = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return whole, whole + like.shape[1] - 1
    real = mask != 0
    return real.int().argmax(dim=1), real.shape[1] - 1 - real.flip(1).int().argmax(dim=1)


def taken(hidden: torch.Tensor, mask: torch.Tensor | None, token: Token) -> torch.Tensor:
    """[B, d] of a block's output [B, T, d]."""
    if token == "mean":
        if mask is None or mask.shape != hidden.shape[:2]:
            return hidden.mean(dim=1)
        weights = (mask != 0).to(hidden.dtype).unsqueeze(-1)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
    first, last = _ends(mask, hidden)
    return hidden[torch.arange(len(hidden), device=hidden.device), first if token == "class" else last]


class _Hook(TrainingHook):
    name = "representation"

    def __init__(self, probe: Representation, adapted: Adapted, view: View) -> None:
        self.probe, self.adapted, self.view = probe, adapted, view
        self.token: Token | None = None
        self.base: Sequence[NDArray[np.float32]] = ()
        self.tuned: Sequence[NDArray[np.float32]] = ()

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Called before a checkpoint is loaded: in a resumed run, too, this is the model as training began."""
        self.base = self._look()

    def finish(self) -> None:
        self.tuned = self._look()

    def _look(self) -> Sequence[NDArray[np.float32]]:
        """Of every block [n, d]; none where a block's output is no [B, T, d] (convolutional networks)."""
        blocks: list[list[torch.Tensor]] = [[] for _ in self.adapted.backbone.roles.names]
        with looking(self.adapted.module):
            for batch in self.view.batches(self.probe.examples, SIZE):
                inputs, mask = self.view.task.inputs(batch), batch.get("attention_mask")
                if self.token is None:
                    self.token = token_of(self.adapted, inputs, mask) if self.probe.token == "auto" else self.probe.token
                with _outputs(self.adapted.backbone) as seen:
                    self.adapted.backbone.outputs(self.adapted.module, inputs)
                if len(seen) != len(blocks) or any(hidden.dim() != 3 for hidden in seen):
                    return ()
                for rows, hidden in zip(blocks, seen, strict=True):
                    rows.append(taken(hidden, mask, self.token).float().cpu())
        return [torch.cat(rows)[:MOST].numpy() for rows in blocks]

    def report(self) -> dict[str, Any]:
        if not self.base or len(self.base) != len(self.tuned):
            return {}
        split, _ = self.view.examples(self.probe.examples)
        blocks = [
            {"block": number, "name": name, "width": base.shape[1], **moved(base.astype(np.float64), tuned.astype(np.float64))}
            for number, (name, base, tuned) in enumerate(
                zip(self.adapted.backbone.roles.names, self.base, self.tuned, strict=True)
            )
        ]
        about = {"split": split, "examples": len(self.base[0]), "token": self.token}
        return {FILE: {**about, "reference": "backbone" if self.view.zero_at_start else "start", "blocks": blocks}}

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        if not self.probe.save or not self.base:
            return {}
        _, chosen = self.view.examples(self.probe.examples)
        parts = {"base": self.base, "tuned": self.tuned}
        found = {f"{part}.{number}": rows for part, blocks in parts.items() for number, rows in enumerate(blocks)}
        return {ARRAYS: {"examples": chosen, **found}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Representation(Probe):
    """Linear CKA and drift of every block's output, between the model as training begins and as it is tested.

    With x_i, y_i one token of example i, put out by a block before and after: ``cka`` (unbiased HSIC) and ``cka_biased``
    (Kornblith et al. 2019, equation 4), ``drift`` ||Y - X||_F / ||X||_F, ``cosine`` mean of cos(x_i, y_i). Examples: spread
    evenly over the validation split, in evaluation mode, float32. ``reference`` is ``backbone`` where the adapter has no effect
    at the start (a quantized backbone where it is quantized), else ``start``: the adapted model before its first step. Of texts
    that make several rows, the first 64 rows count. Written as ``representation.json``, arrays as ``representation.npz``
    (``base.N`` and ``tuned.N`` [n, d] float32 of block N).
    """

    name: ClassVar[str] = "representation"
    in_tuning: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{kornblith2019similarity,
  title = {Similarity of Neural Network Representations Revisited},
  author = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning}, year = {2019}, pages = {3519--3529},
  eprint = {1905.00414}, archivePrefix = {arXiv}
}"""

    examples: int = MOST  #: at most 64; 0: not watched
    token: Literal["auto", "class", "last", "mean"] = "auto"  #: what stands for an example; auto: as :func:`token_of` finds
    save: bool = False  #: keep the arrays

    def __post_init__(self) -> None:
        if not (self.examples == 0 or FEWEST <= self.examples <= MOST):
            raise OptionError(f"must be 0, or {FEWEST} to {MOST}, got {self.examples}", where="examples", remedy="e.g. 64")
        if self.save and not self.examples:
            raise OptionError("there is nothing to save without examples", where="save", remedy="remove it, or give examples")

    def hook(self, adapted: Adapted, view: View) -> TrainingHook | None:
        return _Hook(self, adapted, view) if self.examples and adapted.backbone.roles.names else None
