"""What a backbone is: a pretrained model, how to call it, and what it expects of its input."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from peftlab.registry import Component
from peftlab.tasks.contract import Preprocessing


@dataclasses.dataclass(slots=True)
class Backbone:
    """A loaded (or, on the meta device, planned) model with a fresh head.

    ``module`` is the library's own model, untouched: whatever is exported can be loaded by plain transformers, timm and PEFT.
    """

    name: str
    family: str  #: "vit", "deit", "bert", ...: transformers' model_type, or "timm-vit"
    module: nn.Module
    head: str  #: dotted name of the classification head
    outputs: Callable[[nn.Module, Mapping[str, torch.Tensor]], Any]  #: (module, inputs) -> logits [B, K]
    blocks: int  #: number of transformer blocks
    library: str  #: "transformers" or "timm"
    save: Callable[[nn.Module, Any], None]  #: (module, folder): write in the library's own format


class BackboneSource(Component, ABC):
    """One place backbones come from: the package, the transformers hub or folder, timm."""

    priority: ClassVar[int]  #: sources are asked in this order

    @classmethod
    @abstractmethod
    def accepts(cls, name: str) -> bool:
        """Whether this source is the one for ``name``. Looks at the name and at local files only."""

    @classmethod
    @abstractmethod
    def fingerprint(cls, name: str) -> str:
        """SHA-256 over the weight files, or the commit of a hub revision."""

    @classmethod
    @abstractmethod
    def preprocessing(cls, name: str, image_size: int | None) -> Preprocessing: ...

    @classmethod
    @abstractmethod
    def load(cls, name: str, *, outputs: int, image_size: int | None, seed: int, device: str = "cpu") -> Backbone:
        """The model with a head of ``outputs`` classes, freshly initialised from ``seed``; ``device="meta"``: shapes only."""
