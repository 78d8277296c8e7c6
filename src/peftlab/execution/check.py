"""Proof, in about two minutes, that every arm of a study works on the user's own backbone and data.

Not a rehearsal of the study: a few dozen steps on a few dozen examples, after which each promise is tested by itself.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.allocators.contract import BaseProbe
from peftlab.backbones.contract import Backbone
from peftlab.errors import PeftlabError
from peftlab.study.expand import Cell
from peftlab.study.schema import Train
from peftlab.tasks.contract import PreparedTask, Splits
from peftlab.training.assemble import Ingredients, base_probe
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.listener import Listener
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.precision import resolve_device, resolve_precision

EXAMPLES, STEPS = 64, 24


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One promise of one arm: kept or not, with the figure that shows it."""

    label: str
    promise: str
    kept: bool
    detail: str


def check_cell(cell: Cell, cache: Path, seed: int, device: str = "auto", rates: Sequence[float] = ()) -> Iterator[Proof]:
    """The promises of one arm, tested one after the other; the first that cannot be tested ends it.

    ``rates``: learning rates that the study's tuning will try; the lowest is used, and the next where the loss does not fall.
    None: the arm's own.

    Promises: trainable count equals its closed formula, starts as the backbone (zero effect), every trainable tensor
    moves and the frozen ones do not, loss falls, merged equals unmerged, saved and loaded equals kept.
    """

    def proof(promise: str, kept: bool, detail: str) -> Proof:
        return Proof(label=cell.label, promise=promise, kept=kept, detail=detail)

    began = time.perf_counter()
    try:
        yield from _proofs(_Subject(cell, cache, seed, device, rates), proof)
    except PeftlabError as error:
        yield proof(f"{type(error).__name__}", False, str(error))
    except Exception as error:  # whatever breaks is what the user wants to know before a study does
        yield proof("runs without an error", False, f"{type(error).__name__}: {error}")
    yield proof("time", True, f"{time.perf_counter() - began:.1f} s")


class _Subject:
    """An arm with a small fixed set of its own training examples."""

    def __init__(self, cell: Cell, cache: Path, seed: int, device: str, rates: Sequence[float]) -> None:
        self.cell, self.seed, self.device = cell, seed, resolve_device(device)
        self.rates = sorted(rates) or [cell.train.learning_rate]
        self.ingredients = Ingredients.of_cell(cell)
        self.task: PreparedTask = self.ingredients.task.prepare(self.ingredients.preprocessing(), cache)
        order = np.random.Generator(np.random.Philox(seed)).permutation(self.task.splits(seed).train)
        self.examples = np.sort(order[:EXAMPLES])
        batch = self.task.batch(self.examples)
        self.batch = {key: value.to(self.device) for key, value in batch.items()}
        self.plain = self.ingredients.load_backbone(self.task.info.outputs, seed)
        self.plain.module.to(self.device)

    @torch.no_grad()
    def logits(self, module: nn.Module) -> torch.Tensor:
        module.eval()
        return self.plain.outputs(module, self.task.inputs(self.batch))

    def loss(self, module: nn.Module) -> float:
        return float(self.task.loss(self.logits(module), self.batch))

    def settings(self, rate: float) -> Train:
        """The arm's own training at this learning rate, cut to a few steps on the examples."""
        size = min(32, len(self.examples))
        changes: dict[str, Any] = {
            "learning_rate": rate,
            "max_steps": STEPS,
            "epochs": STEPS,
            "batch_size": size,
            "effective_batch_size": None,
            "warmup": 0.0,
        }
        changes |= {"schedule": "constant", "early_stopping": None, "select": "last", "evaluate_every": float(STEPS)}
        return self.cell.train.model_copy(update=changes)

    @property
    def splits(self) -> Splits:
        none = np.empty(0, dtype=np.int64)
        return Splits(train=self.examples, validation=none, test=none)

    def look(self, backbone: Backbone) -> BaseProbe:
        return base_probe(backbone, self.task, self.splits, self.settings(self.rates[0]), self.seed)

    def build(self) -> Adapted:
        return self.ingredients.build(self.task.info.outputs, self.seed, self.device, self.look)

    def train(self, adapted: Adapted, folder: Path, rate: float) -> None:
        train = self.settings(rate)
        Trainer(
            adapted=adapted,
            task=self.task,
            splits=self.splits,
            train=train,
            seed=self.seed,
            device=self.device,
            precision=resolve_precision(train.precision, self.device),
            checkpoints=Checkpoints(folder / "checkpoints"),
            cadence=Cadence(seconds=float("inf")),
            hooks=list(adapted.hooks),
            listener=Listener(),
        ).fit()


def _proofs(subject: _Subject, proof: Callable[[str, bool, str], Proof]) -> Iterator[Proof]:
    adapter = subject.ingredients.adapter
    adapted = subject.build()
    counted = sum(p.numel() for n, p in adapted.trainable().items() if not adapted.is_head(n))
    meta = subject.ingredients.load_backbone(subject.task.info.outputs, subject.seed, device="meta")
    formula = adapter.count(meta, adapter.sites(meta), adapted.ranks or None)
    yield proof(
        "trainable parameters as the formula says",
        counted == formula,
        f"{counted:,} counted, {formula:,} by formula (head apart)",
    )
    if subject.ingredients.zero_at_start:
        difference = _difference(subject.logits(adapted.module), subject.logits(subject.plain.module))
        yield proof(
            "starts as the backbone", difference <= adapter.merge_tolerance, f"largest relative difference {difference:.1e}"
        )
    before = subject.loss(adapted.module)
    with tempfile.TemporaryDirectory(prefix="peftlab-check-") as name:
        folder = Path(name)
        after, rate = before, subject.rates[0]
        for number, rate in enumerate(subject.rates):
            adapted = subject.build() if number else adapted
            subject.train(adapted, folder / str(number), rate)  # raises DidNothing, BaseChanged
            after = subject.loss(adapted.module)
            if after < before:
                break
        yield proof("trains what it should, and nothing else", True, "every trainable tensor moved; frozen bytes unchanged")
        at = f"{before:.4f} -> {after:.4f} on {len(subject.examples)} training examples, {STEPS} steps at learning_rate {rate:g}"
        yield proof("loss falls", after < before, at if after < before else f"{at}, which may be too high for this arm")
        kept = subject.logits(adapted.module)
        if adapter.mergeable:
            difference = _difference(subject.logits(adapter.merge(adapted)), kept)
            yield proof(
                "merged equals unmerged", difference <= adapter.merge_tolerance, f"largest relative difference {difference:.1e}"
            )
        adapter.save(adapted, folder / "adapter")
        size = sum(path.stat().st_size for path in (folder / "adapter").rglob("*") if path.is_file())
        fresh = subject.ingredients.load_backbone(subject.task.info.outputs, subject.seed)
        fresh.module.to(subject.device)
        difference = _difference(subject.logits(adapter.load(fresh, folder / "adapter")), kept)
        detail = f"largest relative difference {difference:.1e}, {size / 1e6:.3g} MB on disk"
        yield proof("saved and loaded equals kept", difference <= adapter.merge_tolerance, detail)


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest value of ``b``."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
