"""Training and evaluation mode of a model, and what moves in training besides what is trained: running statistics.

Layers such as batch normalisation note mean and variance of what they see in training, and normalise with these in evaluation.
Here they do so where they train: where all weights of the layer's own do (without any: all of the model). Elsewhere they are
frozen, and a frozen layer computes in training what it computes in evaluation: it normalises with the statistics that it was
pretrained with. Statistics that move are a part of what is learnt (``Adapted.learnt``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

_STATISTICS = ("running_mean", "running_var")


def train_mode(module: nn.Module, still: Sequence[nn.Module] | None = None) -> None:
    """Put a model into training mode, layers with frozen statistics apart (what they hold, dropout say, is not).

    ``still``: :func:`frozen_layers` of it, where they are known.
    """
    module.train()
    for layer in frozen_layers(module) if still is None else still:
        layer.training = False


def frozen_layers(module: nn.Module) -> list[nn.Module]:
    """Those with running statistics that do not move."""
    return [layer for _, layer in _noting(module) if not _trains(layer, module)]


def moving(module: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> every running statistic that moves in training, and the counters beside them; mostly none."""
    found = ((name, layer) for name, layer in _noting(module) if _trains(layer, module))
    return {f"{name}.{own}".lstrip("."): buffer for name, layer in found for own, buffer in layer.named_buffers(recurse=False)}


def _noting(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers with running statistics."""
    for name, layer in module.named_modules():
        if any(layer._buffers.get(own) is not None for own in _STATISTICS):
            yield name, layer


def _trains(layer: nn.Module, module: nn.Module) -> bool:
    own = list(layer.parameters(recurse=False)) or list(module.parameters())
    return all(parameter.requires_grad for parameter in own)


@contextlib.contextmanager
def same_modes(module: nn.Module) -> Iterator[None]:
    """Training or evaluation, afterwards every part is in the mode in which it was."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def unmoved(tensors: Mapping[str, torch.Tensor]) -> Iterator[list[str]]:
    """Afterwards these hold the values that they held before.

    Yields:
        names of those that had other values, filled in at the end. Fake tensors have none.
    """
    before = {name: tensor.clone() for name, tensor in tensors.items() if type(tensor) is torch.Tensor and not tensor.is_meta}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, kept in before.items():
            if not torch.equal(tensors[name], kept):
                changed.append(name)
                tensors[name].copy_(kept)
