"""What adapters share that put small modules of their own beside the backbone's layers.

A module is inserted as the child ``adapter`` of the layer it belongs to; a forward hook lets it see the layer's input and change
its output. No layer is replaced: names, types and weights of the backbone stay as they are, so that gradient checkpointing, fused
kernels and whoever reads ``layer.weight`` go on working. Hooks are plain functions, which copies of the model share.
"""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftlab.adapters._plain import load_tensors, save_tensors
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator

CHILD = "adapter"  #: name of the inserted child


class Insert(nn.Module):
    """A module inserted after a layer."""

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The layer's new output, from its input and its own output."""
        raise NotImplementedError


def _after(layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return layer.get_submodule(CHILD)(args[0], output)


def insert_after(layer: nn.Module, insert: Insert) -> None:
    """Let ``insert`` see every input of the layer and change its output."""
    layer.add_module(CHILD, insert)
    layer.register_forward_hook(_after)


def inserted(module: nn.Module) -> Iterator[tuple[nn.Module, Insert]]:
    """Every layer with what was inserted after it."""
    for layer in list(module.modules()):
        insert = layer._modules.get(CHILD)
        if isinstance(insert, Insert):
            yield layer, insert


def take_out(layer: nn.Module) -> None:
    """Undo :func:`insert_after`."""
    del layer._modules[CHILD]
    for key in [key for key, hook in layer._forward_hooks.items() if hook is _after]:
        del layer._forward_hooks[key]


class Inserting(Adapter):
    """Base: the backbone is frozen, new modules are inserted, they and the head train."""

    @abstractmethod
    def insert(self, backbone: Backbone, random: torch.Generator) -> None:
        """Insert the modules, on the CPU; every initial value is drawn from ``random``.

        Raises:
            OptionError, BackboneError: this backbone has no place for them.
        """

    def own(self, backbone: Backbone) -> frozenset[str]:
        """Parameters of the backbone itself, outside the head, that train as well."""
        return frozenset()

    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        module, own = backbone.module, self.own(backbone)
        plain = {name for name, _ in module.named_parameters()}
        layers, device = set(module.modules()), next(module.parameters()).device
        self.insert(backbone, generator(seed, "adapter"))
        for new in [child for child in module.modules() if child not in layers]:
            new.to(device)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in plain or name in own or backbone.in_head(name))
        return Adapted(module=module, backbone=backbone, adapter=self, sites=self.sites(backbone), own_parameters=own)

    def merge(self, adapted: Adapted) -> nn.Module:
        if not self.mergeable:
            raise OptionError(
                f"{self.name!r} cannot be merged: what it adds is no linear map of any layer's weights",
                where="adapter",
                remedy="keep the adapter beside its backbone",
            )
        merged = make_dense(copy.deepcopy(adapted.module))
        for layer, insert in inserted(merged):
            with torch.no_grad():
                self.fold(layer, insert, merged)
            take_out(layer)
        return restore_conv1d(merged)

    def fold(self, layer: Any, insert: Insert, model: nn.Module) -> None:
        """Move what ``insert`` does into the layer's weights."""
        raise NotImplementedError

    def save(self, adapted: Adapted, folder: Path) -> None:
        save_tensors(adapted, folder)

    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        return load_tensors(self.attach(backbone, seed=0), folder)


class Bottleneck(nn.Module):
    """W_up act(W_down x + b_down) + b_up:  [..., d] -> [..., width] -> [..., d]."""

    def __init__(self, down: torch.Tensor, activation: nn.Module, dropout: float = 0.0) -> None:
        """``down``: initial W_down [width, d]; W_up and both biases start at zero, so the sum starts at zero."""
        super().__init__()
        self.down = linear(down)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.up = linear(torch.zeros(down.shape[::-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.dropout(self.activation(self.down(x))))

    @staticmethod
    def count(d: int, width: int) -> int:
        """2 d width + width + d."""
        return 2 * d * width + width + d


def linear(weight: torch.Tensor) -> nn.Linear:
    """A linear layer with this weight and a zero bias; draws no random numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(weight.shape[0]))
    return layer


def shared_name(names: Iterable[str]) -> str:
    """Dotted name of the innermost module that holds all of these."""
    levels = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels))


def check_width(width: int, sites: Sequence[Site], where: str) -> None:
    """A bottleneck is between 1 and the layer's width."""
    limit = min(site.d_out for site in sites)
    if not 1 <= width <= limit:
        raise OptionError(f"must be between 1 and the layers' width {limit}, got {width}", where=where, remedy="e.g. 8 or 64")


def check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise OptionError(f"dropout must be in [0, 1), got {dropout}", where="dropout", remedy="e.g. 0.1")
