"""Proof that a method did what its name says: what should train has moved, what is frozen has not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from peftlab.errors import BaseChanged, DidNothing
from peftlab.nn.modes import moving
from peftlab.nn.quantized import plain_buffers, stored_tensors
from peftlab.nn.roles import Site
from peftlab.nn.tensors import tensor_hash


def frozen_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All that must not change: frozen parameters and buffers, and whatever quantized layers store.

    Buffers that no checkpoint of a library keeps are caches, and running statistics move where their layer trains (nn/modes.py).
    """
    parameters = ((n, p) for n, p in module.named_parameters() if not p.requires_grad)
    return [*parameters, *frozen_buffers(module).items(), *stored_tensors(module)]


def frozen_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Those of the model's state, quantized layers' and statistics that move apart."""
    moves = moving(module)
    return {name: buffer for name, buffer in plain_buffers(module, persistent=True).items() if name not in moves}


def frozen_hash(module: nn.Module) -> str:
    """SHA-256 over names and bytes of :func:`frozen_tensors`."""
    digest = hashlib.sha256()
    for name, tensor in frozen_tensors(module):
        digest.update(name.encode())
        digest.update(tensor_hash(tensor).encode())
    return digest.hexdigest()


def assert_frozen(module: nn.Module, before: str) -> dict[str, Any]:
    """What was looked at and found unchanged: the record ``base_check.json``.

    Args:
        before: :func:`frozen_hash` as training began.

    Raises:
        BaseChanged: a frozen tensor differs, or holds a gradient.
    """
    frozen = frozen_tensors(module)
    holder = next((n for n, tensor in frozen if tensor.grad is not None), None)
    if holder or frozen_hash(module) != before:
        raise BaseChanged(
            "a frozen weight or statistic of the backbone changed during training",
            where=holder or "backbone",
            remedy="report this fault",
        )
    size = sum(tensor.nbytes for _, tensor in frozen)
    return {"tensors": len(frozen), "bytes": size, "sha256": before, "unchanged": True, "with_gradient": 0}


class Movement:
    """Every trainable tensor must get a gradient and move within the first two updates; steps that float16 leaves out are none.

    Two, because B = 0 gives LoRA's A no gradient in the first. A gradient is asked for besides movement, because weight
    decay moves tensors that nothing trains; one that is not finite is none. What is added to keys (a key bias, the shift of
    SSF on k) is exempt: the softmax cancels it, its gradient is zero up to rounding.
    """

    updates = 2

    def __init__(self, trainable: Mapping[str, nn.Parameter], sites: tuple[Site, ...], module: nn.Module | None = None) -> None:
        self.trainable = trainable
        buffers = {} if module is None else frozen_buffers(module)
        #: that are to stand still: told by now, a layer that notes what it sees costs no whole training
        self.buffers = {name: (buffer, tensor_hash(buffer)) for name, buffer in buffers.items()}
        self.left = self.updates  #: before the verdict falls
        self.before = {name: tensor_hash(p) for name, p in trainable.items()}
        self.had_gradient: set[str] = set()
        self.keys = tuple(f"{site.name}." for site in sites if site.role == "k")
        self.proved = False

    def observe(self) -> None:
        """After an update, while its gradients are there."""
        if self.proved:
            return
        self.left -= 1
        for name, parameter in self.trainable.items():
            gradient = parameter.grad
            if gradient is not None and bool(gradient.any()) and bool(gradient.isfinite().all()):
                self.had_gradient.add(name)

    def _added_to_keys(self, name: str) -> bool:
        return name.endswith((".bias", ".shift")) and any(key in name for key in self.keys)

    def verify(self) -> None:
        """After every step, with all done that belongs to it.

        Raises:
            DidNothing: the updates are there, and tensors stood still; names them.
            BaseChanged: a buffer did not.
        """
        if self.proved or self.left:
            return
        moved = next((name for name, (buffer, before) in self.buffers.items() if tensor_hash(buffer) != before), None)
        if moved is not None:
            raise BaseChanged(
                "the layer changes a buffer as it computes, and nothing would keep that",
                where=moved,
                remedy="use a backbone without such layers",
            )
        still = [
            name
            for name, parameter in self.trainable.items()
            if not self._added_to_keys(name) and (name not in self.had_gradient or tensor_hash(parameter) == self.before[name])
        ]
        if still:
            raise DidNothing(
                f"{len(still)} of {len(self.trainable)} trainable tensors have not moved after {self.updates} updates",
                where=", ".join(still[:3]),
                remedy="the adapter is not connected to the loss, or the learning rate is zero",
            )
        self.proved = True
