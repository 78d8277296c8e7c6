"""A task whose batches carry the hidden states at the cut of a model, instead of what is needed to compute them.

Training loop, evaluation and metrics see an ordinary task. Hidden states are computed once, in evaluation mode, always in the
same order and the same number at a time: made anew after a loss, they are the same to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from peftlab.adapters.contract import Adapted
from peftlab.nn.modes import same_modes, train_mode
from peftlab.nn.seeding import seed_default
from peftlab.nn.tensors import tensor_hash
from peftlab.tasks.contract import Meter, PreparedTask, Splits
from peftlab.training.evaluation import to_device
from peftlab.training.precision import Precision, autocast
from peftlab.training.prefix import KEY, Cut, Uncut, frozen_in_prefix, hidden_states, tail
from peftlab.training.prefix_search import find_cut
from peftlab.training.prefix_store import Rows, Store

TRIED = 4  #: examples that the model is followed and tried out on
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}  #: largest difference of outputs, relative to the largest output


@dataclasses.dataclass(slots=True, kw_only=True)
class Part:
    """Some examples of a task, kept in one file."""

    examples: np.ndarray  #: int64 [N], sorted
    rows: Rows | None = None


@dataclasses.dataclass(kw_only=True)
class Prefix:
    """A model that is cut, and the hidden states of its examples at the cut."""

    adapted: Adapted  #: begins at the cut where it is given hidden states
    cut: Cut
    task: PreparedTask
    parts: Sequence[Part]
    device: torch.device
    precision: Precision
    about: Mapping[str, Any]  #: data, backbone, threads, ...: what decides hidden states besides the model
    store: Store
    by: str = ""
    waiting: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, adapted: Adapted, task: PreparedTask, splits: Splits, *, most: int | None = None, **others: Any) -> Prefix:
        """Cut the model at its last frozen place, and try that out. The fields are as they are said above.

        Test data have a file of their own, so that they are not touched before they are tested; with folds all examples are in
        one, since each is a test example once.

        Raises:
            Uncut: there is no such place, or the outputs would be others.
        """
        device = others["device"]
        trained = np.concatenate([splits.train, splits.validation])
        together = [np.concatenate([trained, splits.test])] if task.info.folds > 1 else [trained, splits.test]
        first = np.sort(splits.train[:TRIED])
        inputs = task.inputs(to_device(task.batch(first), device))
        if any(len(value) != len(first) for value in inputs.values() if value.dim() > 1):
            raise Uncut("the rows of a batch are not its examples")
        with _random_state_kept(device), autocast(others["precision"], device):
            cut = find_cut(adapted, inputs, most=most)
        parts = [Part(examples=np.unique(examples)) for examples in together]
        found = cls(adapted=tail(adapted, cut), cut=cut, task=task, parts=parts, **others)
        found.try_out(first)
        return found

    def try_out(self, examples: np.ndarray) -> None:
        """Raises Uncut where outputs of training are others than those of the whole model."""
        module, outputs = self.adapted.module, self.adapted.backbone.outputs
        batch = to_device(self.task.batch(examples), self.device)
        inputs = self.task.inputs(batch)
        alone = [row for example in examples for row in self._computed(np.array([example]))]
        hidden = self._collated([memoryview(row) for row in alone]).to(self.device)
        with same_modes(module), torch.no_grad(), autocast(self.precision, self.device), _random_state_kept(self.device):
            train_mode(module)
            seed_default(0, self.device)
            whole = outputs(module, inputs)
            seed_default(0, self.device)
            try:
                cut = outputs(module, {**({} if self.cut.placeholders else inputs), KEY: hidden})
            except Exception as error:  # whatever a model of another kind expects of what is left out
                raise Uncut(f"it cannot begin at {self.cut.name}: {type(error).__name__}: {error}") from error
        worst = _difference(whole, cut, inputs.get("attention_mask"))
        if not worst <= TOLERANCE[self.precision]:
            raise Uncut(f"outputs would differ by {worst:.1e}: more than the frozen blocks decides them")

    @property
    def size(self) -> int:
        """Bytes of all hidden states; texts are taken to be as long as the longest of a few."""
        row = math.prod(self.cut.shape) * self.cut.dtype.itemsize
        return row * sum(len(part.examples) for part in self.parts)

    def ready(self, indices: np.ndarray) -> Rows | None:
        """Have the hidden states of these examples, all of one part; computed now if nobody has.

        Raises:
            NoRoom: they cannot be kept.
        """
        if not len(indices):
            return None
        part = self._part(int(indices[0]))
        if part.rows is None:
            key = {**self.about, "model": self._model(), "examples": _hash(part.examples), "at_once": self._at_once}
            number = len(part.examples)
            size = self.size * number // max(1, sum(len(p.examples) for p in self.parts))
            part.rows = self.store.rows(key, number, size, lambda: self._all(part.examples), by=self.by, waiting=self.waiting)
        return part.rows

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """Hidden states [B, ...] of examples of one part, on the CPU; shorter texts filled up with zeros at their end."""
        part, rows = self._part(int(indices[0])), self.ready(indices)
        assert rows is not None
        places = np.searchsorted(part.examples, indices)
        found = [memoryview(bytearray(rows.size(place))) for place in places]
        for place, view in zip(places, found, strict=True):
            rows.read(place, view)
        return self._collated(found)

    def close(self) -> None:
        for part in self.parts:
            if part.rows is not None:
                part.rows.close()

    @property
    def _at_once(self) -> int:
        return 16 if self.device.type == "cpu" else 64

    def _part(self, example: int) -> Part:
        for part in self.parts:
            place = np.searchsorted(part.examples, example)
            if place < len(part.examples) and part.examples[place] == example:
                return part
        raise IndexError("an index that is in no split of this task")

    def _all(self, examples: np.ndarray) -> Iterator[bytearray]:
        for start in range(0, len(examples), self._at_once):
            yield from self._computed(examples[start : start + self._at_once])

    def _computed(self, examples: np.ndarray) -> list[bytearray]:
        """Row of each example: its hidden states without those of padding."""
        module = self.adapted.module
        batch = to_device(self.task.batch(examples), self.device)
        inputs = self.task.inputs(batch)
        with same_modes(module), autocast(self.precision, self.device):
            module.eval()
            hidden = hidden_states(self.adapted, self.cut, inputs).cpu()
        if hidden.dtype != self.cut.dtype:
            raise Uncut(f"hidden states are {hidden.dtype} in evaluation and {self.cut.dtype} in training")
        ends = self._ends(inputs, hidden)
        return [bytearray(row[:end].contiguous().view(torch.uint8).numpy()) for row, end in zip(hidden, ends, strict=True)]

    def _ends(self, inputs: Mapping[str, torch.Tensor], hidden: torch.Tensor) -> Sequence[int | None]:
        mask = inputs.get("attention_mask")
        if not self.cut.by_token or mask is None:
            return [None] * len(hidden)
        if mask.shape != hidden.shape[:2]:
            raise Uncut("a row of a batch holds more than one text")
        ends = (mask != 0).sum(1)
        if not bool(((mask != 0) == (torch.arange(mask.shape[1], device=mask.device) < ends[:, None])).all()):
            raise Uncut("texts are not filled up at their end")
        return ends.tolist()

    def _collated(self, rows: Sequence[memoryview]) -> torch.Tensor:
        if not self.cut.by_token:
            flat = torch.stack([torch.frombuffer(row, dtype=self.cut.dtype) for row in rows])
            return flat.reshape(len(rows), *self.cut.shape)
        width = self.cut.shape[1]
        texts = [torch.frombuffer(row, dtype=self.cut.dtype).reshape(-1, width) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)

    @property
    def _row(self) -> tuple[int, ...]:
        """Shape of a row of the file; of texts that of a token."""
        return self.cut.shape[1:] if self.cut.by_token else self.cut.shape

    def _model(self) -> str:
        """SHA-256 over what computes the hidden states: modules as they describe themselves, and every tensor."""
        module = self.adapted.backbone.module
        digest = hashlib.sha256(repr([type(module).__qualname__, self.cut.name, self._row, str(self.cut.dtype)]).encode())
        for stub, _ in self.cut.stubs:
            digest.update(repr(stub).encode())
        for name, tensor in sorted(frozen_in_prefix(self.adapted, self.cut).items()):
            digest.update(name.encode())
            digest.update(tensor_hash(tensor).encode())
        return digest.hexdigest()


class PrefixTask(PreparedTask):
    """A task that gives the hidden states of its examples to a model that is cut."""

    def __init__(self, prefix: Prefix) -> None:
        self.prefix, self.inner = prefix, prefix.task
        self.task, self.info = self.inner.task, self.inner.info

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self.inner.splits(seed, fold)

    def batch(self, indices: np.ndarray, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """As the task's own, with hidden states; without the inputs that nothing behind the cut needs."""
        rest = self.inner.targets(indices) if self.prefix.cut.placeholders else self.inner.batch(indices)
        return {**rest, KEY: self.prefix.read(indices)}

    def lengths(self, indices: np.ndarray) -> np.ndarray | None:
        return self.inner.lengths(indices)

    def weight(self, indices: np.ndarray) -> float:
        return self.inner.weight(indices)

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rest = {name: value for name, value in batch.items() if name != KEY}
        return {**({} if self.prefix.cut.placeholders else self.inner.inputs(rest)), KEY: batch[KEY]}

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
        return self.inner.loss(outputs, batch, label_smoothing)

    def meter(self, thresholds: Mapping[str, float] | None = None) -> Meter:
        return self.inner.meter(thresholds)


def _random_state_kept(device: torch.device) -> contextlib.AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _hash(examples: np.ndarray) -> str:
    return hashlib.sha256(examples.astype("<i8").tobytes()).hexdigest()


def _difference(a: Any, b: Any, mask: torch.Tensor | None) -> float:
    """Largest absolute difference of outputs, relative to the largest; of texts, where there is one."""
    worst = 0.0
    for x, y in zip(*([t for t in tree_leaves(o) if torch.is_tensor(t) and t.is_floating_point()] for o in (a, b)), strict=True):
        if mask is not None and x.shape[:2] == mask.shape:
            x, y = x[mask != 0], y[mask != 0]
        worst = max(worst, float((x.float() - y.float()).abs().max() / x.float().abs().max().clamp_min(1e-12)))
    return worst
