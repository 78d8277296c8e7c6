"""What a probe is: a diagnostic that watches a run and leaves a JSON file in its folder. It never changes a result."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.modes import same_modes
from peftlab.registry import Component, component, components, create
from peftlab.tasks.contract import PreparedTask, Splits


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a probe may look at besides the adapted model. Looking draws no random number."""

    task: PreparedTask
    splits: Splits
    device: torch.device
    precision: Literal["float32", "bfloat16", "float16"]  #: of the matrix products of training
    #: step -> examples that it computes with, in all processes of the run; of texts tokens, padding included
    amount: Callable[[int], int]
    zero_at_start: bool  #: the adapted model begins with the outputs of its backbone
    #: the model as training began, made anew on the CPU: with the ranks that an allocator found in data, not the values
    fresh: Callable[[], Adapted]

    def examples(self, number: int) -> tuple[str, np.ndarray]:
        """(split, at most ``number`` of its examples, spread evenly): of validation data, without any of training data.

        The same for every arm of a seed.
        """
        split = "validation" if len(self.splits.validation) else "train"
        known = self.splits[split]
        places = np.linspace(0, len(known) - 1, min(number, len(known))).round().astype(np.int64)
        return split, known[places]

    def batches(self, number: int, size: int) -> Iterator[dict[str, torch.Tensor]]:
        """These examples, ``size`` at a time, not augmented, on the device."""
        _, chosen = self.examples(number)
        for start in range(0, len(chosen), size):
            batch = self.task.batch(chosen[start : start + size])
            yield {key: value.to(self.device) for key, value in batch.items()}


@contextlib.contextmanager
def looking(module: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; afterwards in the mode it was in."""
    with same_modes(module), torch.no_grad():
        module.eval()
        yield


class Probe(Component, ABC):
    """A configured probe; every run has all of them, unless one answers that there is nothing to watch.

    What its hook's ``report`` gives is written into the run's folder. It is asked when training, its evaluation and the
    measurement of its memory are over: the place for what takes copies of the model (nn/memory.py says what is free), where
    ``adapted`` still holds the weights that were tested, and ``adapted.adapter.merge(adapted)`` makes the plain model of them.
    Its tests: tests/probes/test_contract.py, on every probe there is.
    """

    in_tuning: ClassVar[bool] = True  #: tuning runs are watched as well
    needs_whole: ClassVar[bool] = False  #: reads frozen weights or computes outputs, which no process can alone that shares them

    @abstractmethod
    def hook(self, adapted: Adapted, view: View) -> TrainingHook | None:
        """What watches the run, asked for before the first step; None where there is nothing to watch."""


def probes_of(asked: Mapping[str, Mapping[str, Any]]) -> list[Probe]:
    """Every probe there is, with the options that a study gives it.

    Raises:
        OptionError: no such probe or option.
    """
    for name in asked:
        component("probe", name, where=f"probes.{name}")
    return [create("probe", {**asked.get(name, {}), "name": name}, where=f"probes.{name}") for name in components("probe")]
