"""What a backbone is: a pretrained model, how to call it, and what it expects of its input."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from peftlab.errors import BackboneError
from peftlab.nn.roles import Roles, find_roles
from peftlab.registry import Component
from peftlab.tasks.contract import Head, Preprocessing, TextPreprocessing


@dataclasses.dataclass(slots=True)
class Backbone:
    """A loaded (or, on the meta device, planned) model with a fresh head.

    ``module`` is the library's own model, untouched: whatever is exported can be loaded by plain transformers, timm and PEFT.
    """

    name: str
    family: str  #: transformers' model_type ("vit", "bert", ...) or timm's architecture
    library: str  #: "transformers" or "timm"
    module: nn.Module
    head: str  #: dotted name of the head; "" where there is none
    outputs: Callable[[nn.Module, Mapping[str, torch.Tensor]], Any]  #: (module, inputs) -> logits [B, K] or the library's output
    save: Callable[[nn.Module, Path], None]  #: (module, folder): write in the library's own format
    fresh: tuple[str, ...] = ()  #: further modules the pretrained weights lack (DeBERTa's pooler): trained with the head
    roles: Roles = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.roles = find_roles(self.module, self.head)

    @property
    def heads(self) -> tuple[str, ...]:
        """Dotted names of everything that starts untrained and therefore trains in every arm: the head and ``fresh``."""
        return (self.head, *self.fresh) if self.head else self.fresh

    def in_head(self, parameter_name: str) -> bool:
        """Whether a parameter of ``module`` belongs to the head (or ``fresh``)."""
        return parameter_name.startswith(tuple(name + "." for name in self.heads))

    @property
    def parameters(self) -> int:
        """Number of parameters, head included."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def head_parameters(self) -> int:
        return sum(p.numel() for name in self.heads for p in self.module.get_submodule(name).parameters())


class BackboneSource(Component, ABC):
    """One place backbones come from: the package, the transformers hub or a folder, timm."""

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
    def preprocessing(cls, name: str, image_size: int | None = None) -> Preprocessing: ...

    @classmethod
    def text_preprocessing(cls, name: str, head: Head = "sequence-classification") -> TextPreprocessing:
        """What a model of texts expects; most sources have none. ``head``: what it is used with."""
        raise BackboneError(
            f"{cls.name} has no models of texts", where=name, remedy="name a transformers model, or an image task"
        )

    @classmethod
    @abstractmethod
    def load(
        cls,
        name: str,
        *,
        outputs: int,
        head: Head = "image-classification",
        image_size: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> Backbone:
        """The model with a head of ``outputs`` classes, freshly initialised from ``seed``; ``device="meta"``: shapes only.

        ``head``: what kind of head is fresh; most sources have only some.
        """
