"""What the contract suite needs to know about a task: each ``tests/tasks/test_<task>.py`` lists its ``SAMPLES``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from peftlab.tasks.contract import PreparedTask, Preprocessing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A small task that needs no network, and outputs as an untrained model might give them."""

    spec: Mapping[str, Any]
    preprocessing: Preprocessing
    outputs: Callable[[PreparedTask, Mapping[str, torch.Tensor], torch.Generator], Any]
    #: what examples are made of, where it is not they that are dealt out: splits then have none of that in common
    units: Callable[[PreparedTask, np.ndarray], np.ndarray] = lambda _, indices: indices
