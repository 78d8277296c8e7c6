"""Layers with an update of low rank that compute base and update together (nn/fused_low_rank.py).

A layer is fused by giving it a subclass of its own class: its modules, parameters and names stay what they are, so that saving,
merging, loading and changes of rank go on as before. Whatever a call cannot do that way (a hook watches a factor, adapters are
switched off), it does the old way, and the layer remembers why.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from peftlab.nn.fused_low_rank import Branch, add_low_rank, low_rank_linear
from peftlab.nn.low_rank_layer import LowRankLinear
from peftlab.nn.pooled import PooledLinear, PooledTriplets, group_sums
from peftlab.nn.quantized import is_conv1d
from peftlab.nn.surgery import SlicedLinear


@dataclasses.dataclass(frozen=True, slots=True)
class Fused:
    """What became of the layers of an adapter."""

    layers: Mapping[str, FusedLayer] = dataclasses.field(default_factory=dict)
    left: Mapping[str, str] = dataclasses.field(default_factory=dict)  #: name -> why it is as it was
    why: str = ""  #: why none is fused, where that is not a matter of single layers

    def record(self) -> dict[str, Any]:
        """JSON-ready: how many are fused, and the others by reason; after training by what their last step did."""
        left = {**self.left, **{name: layer.went_plain for name, layer in self.layers.items() if layer.went_plain}}
        reasons: dict[str, list[str]] = {}
        for name, reason in left.items():
            reasons.setdefault(reason, []).append(name)
        fused = sum(name not in left for name in self.layers)
        return {"fused": fused, "left": reasons, **({"why": self.why} if self.why else {})}


class Plain(Exception):
    """This call goes the old way; the message says why."""


class FusedLayer(nn.Module):
    """Stands before the class of an adapted layer in the subclass that it is given."""

    base_layer: Any
    went_plain = ""  #: why its last call in training went the old way

    def branch(self) -> Branch:
        """The update as it is now.

        Raises:
            Plain: it is no plain update of low rank, or somebody watches how it is computed.
        """
        raise NotImplementedError

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What of x the update sees."""
        return x

    def _note(self, reason: str) -> None:
        if self.training:
            self.went_plain = reason

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:  # [..., d_in] -> [..., d_out]
        try:
            if args or options:
                raise Plain("it is called with options")
            branch = self.branch()
            seen = self.seen(x)
            weight = frozen_weight(self.base_layer, branch) if seen is x else None
            if weight is not None and not same_type(weight, x):
                weight = None
            if weight is None and branch.magnitude is not None:
                raise Plain("the norms of DoRA want a frozen weight of the inputs' type")
        except Plain as reason:
            self._note(str(reason))
            return super().forward(x, *args, **options)  # pyright: ignore
        self._note("")
        if weight is None:
            return add_low_rank(self.base_layer(x), seen, branch)
        return low_rank_linear(x, weight, self.base_layer.bias, [branch])


class _LowRankLayer(FusedLayer, LowRankLinear):
    """Of any layer of ours whose factors say it all."""

    def branch(self) -> Branch:
        if self.plain_only:
            raise Plain(self.plain_only)
        return Branch(*self.factors(), self.scale, self.dropout.p if self.training else 0.0)


class _PooledTriplets(_LowRankLayer, PooledTriplets):
    def seen(self, x: torch.Tensor) -> torch.Tensor:
        return group_sums(x.to(self.Q.dtype), self.group_size)


class _Pooled(FusedLayer, PooledLinear):
    def branch(self) -> Branch:
        return Branch(self.A, self.B, self.scale, self.dropout.p if self.training else 0.0)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        return group_sums(x.to(self.A.dtype), self.group_size)


def ours(layer: type) -> type | None:
    """The fused form of a layer of ours."""
    special: Mapping[type, type] = {PooledTriplets: _PooledTriplets, PooledLinear: _Pooled}
    if layer in special:
        return special[layer]
    return subclass_of(_LowRankLayer, layer) if issubclass(layer, LowRankLinear) else None


class FusedSlices(SlicedLinear):
    """Slices of a fused projection whose weights lie below one another: one product for all of them, no concatenation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            weight, bias, branches = self.whole(x)
        except Plain:
            return super().forward(x)
        return low_rank_linear(x, weight, bias, branches)

    def whole(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, list[Branch]]:
        """The frozen weight of all slices, its bias, and the updates of those that are adapted.

        Raises:
            Plain: a slice cannot be computed that way.
        """
        start, weights, biases, branches = 0, [], [], []
        for part in self.children():
            base, branch = part, None
            if isinstance(part, FusedLayer):
                base, branch = part.base_layer, part.branch()
                part._note("")
                if part.seen(x) is not x:
                    raise Plain("pooled inputs")
            if watched(part):
                raise Plain("a hook watches a slice")
            weight = frozen_weight(base, branch)
            if weight is None or not same_type(weight, x):
                raise Plain("the slices are no frozen linear layers of one type")
            weights.append(weight)
            biases.append(base.bias)
            if branch is not None:
                branches.append(dataclasses.replace(branch, start=start))
            start += len(weight)
        whole = self.__dict__.get("settled") if torch.compiler.is_compiling() else adjacent(weights)
        if whole is None:
            raise Plain("the slices do not lie in one tensor")
        return whole, None if biases[0] is None else torch.cat(biases), branches


def frozen_weight(base: nn.Module, branch: Branch | None) -> torch.Tensor | None:
    """The weight [d_out, d_in] of a float layer that nothing of is trained, nobody watches, and that has the update's type."""
    if not (type(base) is nn.Linear or is_conv1d(base)) or watched(base):
        return None
    if any(parameter.requires_grad for parameter in base._parameters.values() if parameter is not None):
        return None
    weight = cast(torch.Tensor, base.weight)
    if branch is not None and branch.A.dtype != weight.dtype:
        return None
    return weight if isinstance(base, nn.Linear) else weight.t()


def same_type(weight: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether a product of the two has one type; autocast gives every product its own."""
    return weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type)


def watched(module: nn.Module) -> bool:
    """Whether a hook acts when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def adjacent(weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that these row-major matrices are consecutive rows of, sharing its memory; None if there is none."""
    first, rows, width = weights[0].detach(), 0, weights[0].shape[1]
    for weight in weights:
        at = first.storage_offset() + rows * width
        same = weight.untyped_storage()._cdata == first.untyped_storage()._cdata and weight.storage_offset() == at
        if not same or not weight.is_contiguous() or weight.shape[1] != width:
            return None
        rows += len(weight)
    return first.as_strided((rows, width), (width, 1))


def settle(module: nn.Module) -> None:
    """Before ``module`` is compiled: find the tensors that slices are rows of, because a compiler cannot ask where a tensor lies.

    Frozen weights stay where they are while they are frozen; whoever moves them calls this again.
    """
    for part in module.modules():
        if isinstance(part, FusedSlices):
            weights = [frozen_weight(base.base_layer if isinstance(base, FusedLayer) else base, None) for base in part.children()]
            part.__dict__["settled"] = None if any(w is None for w in weights) else adjacent(cast(Any, weights))


def _lay_together(sliced: SlicedLinear) -> None:
    """Give the frozen weights of the slices one tensor, each its rows of it."""
    bases = [part.base_layer if isinstance(part, FusedLayer) else part for part in sliced.children()]
    if any(frozen_weight(base, None) is None for base in bases) or len({base.weight.dtype for base in bases}) > 1:  # pyright: ignore
        return
    whole = torch.cat([cast(torch.Tensor, base.weight).detach() for base in bases])
    start = 0
    for base in bases:
        rows = len(cast(torch.Tensor, base.weight))
        cast(torch.Tensor, base.weight).data = whole[start : start + rows]
        start += rows


def fuse_layers(
    module: nn.Module, layers: Iterable[tuple[str, nn.Module]], subclass: Callable[[type], type | None] = ours
) -> Fused:
    """Fuse these layers of ``module`` in place, on the device where they stay.

    Args:
        layers: name and layer.
        subclass: the class of a layer -> a subclass with :class:`FusedLayer`, or None.
    """
    fused, left = {}, {}
    for name, layer in layers:
        before: Any = type(layer)
        made: Any = before if isinstance(layer, FusedLayer) else subclass(before)
        if made is None:
            left[name] = f"{before.__name__} has no fused form"
            continue
        layer.__class__ = made
        try:
            cast(FusedLayer, layer).branch()
        except Plain as reason:
            layer.__class__, left[name] = before, str(reason)
        else:
            fused[name] = layer
    for sliced in module.modules():
        if isinstance(sliced, SlicedLinear) and any(isinstance(part, FusedLayer) for part in sliced.children()):
            sliced.__class__ = FusedSlices
            _lay_together(sliced)
    return Fused(fused, left)


@functools.cache
def subclass_of(mixin: type, layer: type) -> type:
    """``mixin`` before ``layer``, one class for each."""
    return type(f"Fused{layer.__name__}", (mixin, layer), {"__module__": mixin.__module__})
