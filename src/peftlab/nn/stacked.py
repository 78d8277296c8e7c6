"""Several adapted copies of one backbone as one module: what is frozen and equal is computed once, over all their rows.

Member i of a stack sits on rows of its own of every tensor [rows, ...]. A frozen layer that all share acts on all rows at once; a
linear layer with updates of low rank makes one product of the frozen weight for everybody and adds to each member's rows its own
update (nn/fused_low_rank.py), of whatever rank, scale and dropout: nothing is padded. Any other layer that is somebody's own (a
head, a trained norm, an adapted layer that is not fused) or draws random numbers (dropout) acts member by member, each with the
random numbers that it would have drawn by itself, and so does what is not the same for all in every attribute (nn/sameness.py).
So every member gets the outputs and gradients that it gets alone: to the bit where a row of a matrix product
does not depend on how many rows there are, which is the matrix library's doing (docs/stacked-runs.md).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from peftlab.nn.fused_layers import FusedLayer, FusedSlices, Plain, frozen_weight, same_type, watched
from peftlab.nn.fused_low_rank import Branch, add_low_rank, low_rank_linear
from peftlab.nn.modes import train_mode
from peftlab.nn.quantized import dense_weight, is_quantized, quantized_layers
from peftlab.nn.roles import linear_shape
from peftlab.nn.sameness import difference, same_trees
from peftlab.nn.seeding import default_generator
from peftlab.nn.surgery import SlicedLinear


class Unstackable(Exception):
    """These models cannot be computed as one; the message says why."""


@dataclasses.dataclass(slots=True)
class Seat:
    """A member's rows of the tensors that pass through now, and its random numbers."""

    member: int
    first: int
    last: int  #: behind its last row
    generator: torch.Generator

    @contextlib.contextmanager
    def random(self) -> Iterator[None]:
        """Inside, the default generator is the member's."""
        default = default_generator(self.generator.device)
        others = default.get_state()
        default.set_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(default.get_state())
            default.set_state(others)


@dataclasses.dataclass(slots=True)
class Seats:
    """Who is computed in this pass; seen by every node of a joint module."""

    taken: list[Seat] = dataclasses.field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.taken[-1].last if self.taken else 0

    def slice(self, seat: Seat, value: Any) -> Any:
        """The member's part of an argument: its rows of a tensor that has rows for all."""
        if torch.is_tensor(value) and value.dim() and len(value) == self.rows:
            return value[seat.first : seat.last]
        return value

    def by_member(self, layers: Sequence[nn.Module], args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Each member's layer on its own rows, the results below one another.

        Raises:
            Unstackable: no argument has rows of the members.
        """
        if not any(torch.is_tensor(value) and value.dim() and len(value) == self.rows for value in (*args, *options.values())):
            raise Unstackable(f"{type(layers[0]).__name__} is called with nothing that has a row for every example")
        results = []
        for seat in self.taken:
            mine = [self.slice(seat, value) for value in args]
            named = {key: self.slice(seat, value) for key, value in options.items()}
            with seat.random():
                results.append(layers[seat.member](*mine, **named))
        return _below_one_another(results)


def _below_one_another(results: Sequence[Any]) -> Any:
    if isinstance(results[0], tuple):
        return tuple(_below_one_another(parts) for parts in zip(*results, strict=True))
    return torch.cat(list(results)) if torch.is_tensor(results[0]) else results[0]


class OneByOne(nn.Module):
    """A place where every member has a layer of its own."""

    def __init__(self, layers: Sequence[nn.Module], seats: Seats) -> None:
        super().__init__()
        self.__dict__["layers"], self.seats = tuple(layers), seats  # theirs, not submodules: modes and devices are the members'

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.seats.by_member(self.layers, args, options)

    def __getattr__(self, name: str) -> Any:
        """Libraries ask layers for weights to learn a type or a device; a layer within it is no one's to use for all."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(self.__dict__["layers"][0], name)
            if isinstance(found, nn.Module):
                raise
            return found


class SharedLinear(OneByOne):
    """One frozen linear layer with every member's update of low rank, or none."""

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:  # [rows, ..., d_in] -> [rows, ..., d_out]
        try:
            if args or options:
                raise Plain("it is called with options")
            return self._together(x)
        except Plain:
            return self.seats.by_member(self.layers, (x, *args), options)

    def _together(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) != self.seats.rows:
            raise Unstackable("a linear layer is called with other rows than those of the examples")
        each = x.numel() // x.shape[-1] // self.seats.rows
        product, branches, pooled = None, [], []
        for seat in self.seats.taken:
            found = _frozen_and_updates(self.layers[seat.member], x)
            if any(branch.magnitude is not None for branch in found.branches):
                raise Plain("DoRA scales a member's outputs")
            product = product or found
            rows = seat.first * each, seat.last * each
            branches += [dataclasses.replace(branch, rows=rows, generator=seat.generator) for branch in found.branches]
            pooled.append((seat, found))
        assert product is not None
        if product.weight is not None and same_type(product.weight, x) and not any(found.seen for _, found in pooled):
            return low_rank_linear(x, product.weight, product.bias, branches)
        # In the order in which a layer by itself does it: autograd adds the gradients of x in the reverse of it
        sums = [found.seen(x[seat.first : seat.last]) if found.seen else None for seat, found in pooled]
        base = product.base(x)
        parts = []
        for (seat, found), seen in zip(pooled, sums, strict=True):
            part = base[seat.first : seat.last]
            for branch in found.branches:
                mine = x[seat.first : seat.last] if seen is None else seen
                part = add_low_rank(part, mine, dataclasses.replace(branch, generator=seat.generator))
            parts.append(part)
        return torch.cat(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A member's linear layer: the frozen product, as weight or as a layer, and what is added."""

    base: Callable[[torch.Tensor], torch.Tensor]
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    branches: list[Branch]
    seen: Callable[[torch.Tensor], torch.Tensor] | None = None  #: what the update sees of x, where that is not x


def _frozen_and_updates(layer: nn.Module, x: torch.Tensor) -> _Found:
    """Raises Plain where the layer is no frozen product with updates of low rank, or somebody watches it."""
    if watched(layer):
        raise Plain("a hook watches the layer")
    if isinstance(layer, FusedSlices):
        weight, bias, branches = layer.whole(x)
        return _Found(lambda rows: nn.functional.linear(rows, weight, bias), weight, bias, branches)
    if isinstance(layer, FusedLayer):
        branch, base = layer.branch(), cast(Any, layer.base_layer)
        if watched(base) or any(p.requires_grad for p in base.parameters()):
            raise Plain("its base is trained, or a hook watches it")
        pooled = type(layer).seen is not FusedLayer.seen
        return _Found(base, frozen_weight(base, branch), getattr(base, "bias", None), [branch], layer.seen if pooled else None)
    if not _is_linear(layer) or any(p.requires_grad for p in layer.parameters()):
        raise Plain("it is no frozen linear layer")
    return _Found(layer, frozen_weight(layer, None), getattr(layer, "bias", None), [])


@dataclasses.dataclass(slots=True)
class Joint:
    """The module that stands for all members, and who sits where."""

    module: nn.Module
    seats: Seats


def join(modules: Sequence[nn.Module], heads: Sequence[str] = ()) -> Joint:
    """One module for several of the same backbone. Frozen tensors that are equal are shared from here on, which frees memory.

    Args:
        modules: each member's, adapted.
        heads: dotted names of what is every member's own as a whole.

    Raises:
        Unstackable: a hook acts on one of them, frozen weights differ, the models differ in themselves, or a tensor is trained
            that belongs to no layer.
    """
    for module in modules:
        name = next((name for name, part in module.named_modules() if watched(part)), None)
        if name is not None:
            raise Unstackable(f"a hook acts on {name or 'the model'}")
    _share_frozen(modules, heads)
    seats = Seats()
    known = {id(t): t for t in (*modules[0].parameters(), *modules[0].buffers())}
    whole = copy.deepcopy(modules[0], known)
    made = _joined(whole, modules, "", frozenset(heads), seats)
    train_mode(made)
    return Joint(made, seats)


def _joined(mine: nn.Module, modules: Sequence[nn.Module], name: str, heads: frozenset[str], seats: Seats) -> nn.Module:
    if name in heads:
        return OneByOne(modules, seats)
    if all(_untouched(module) for module in modules) and same_trees(modules) and not _random(modules[0]):
        return mine
    if _is_linear_place(modules):
        _check_equal(modules, name)
        return SharedLinear(modules, seats)
    different = difference(modules)
    if different and not name:
        raise Unstackable(f"the models differ in {different}")
    if different or not any(modules[0].children()) or any(hasattr(module, "base_layer") for module in modules):
        return OneByOne(modules, seats)
    if trained := next((key for module in modules for key, p in module.named_parameters(recurse=False) if p.requires_grad), None):
        raise Unstackable(f"{name}.{trained} is trained and belongs to no layer of its own".lstrip("."))
    for key in dict(modules[0].named_children()):
        path = f"{name}.{key}" if name else key
        setattr(mine, key, _joined(getattr(mine, key), [getattr(m, key) for m in modules], path, heads, seats))
    return mine


def _is_linear_place(modules: Sequence[nn.Module]) -> bool:
    return all(isinstance(module, FusedLayer | SlicedLinear) or _is_linear(module) for module in modules)


def _is_linear(module: nn.Module) -> bool:
    return linear_shape(module) is not None or is_quantized(module)


def _untouched(module: nn.Module) -> bool:
    """Whether nothing of it is trained and nothing adapted."""
    adapted = any(isinstance(part, FusedLayer | SlicedLinear) for part in module.modules())
    return not adapted and not any(p.requires_grad for p in module.parameters())


def _random(module: nn.Module) -> bool:
    """Whether a layer in it draws random numbers in training."""
    return any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in module.modules())


def _check_equal(modules: Sequence[nn.Module], name: str) -> None:
    """Raises Unstackable where adapted linear layers at one place do not stand on the same frozen weight."""
    stored = [[tensor for layer in quantized_layers(module).values() for tensor in layer.stored()] for module in modules]
    if not any(stored):
        stored = [[_frozen(module)] for module in modules]
    for found in stored[1:]:
        if len(found) != len(stored[0]) or not all(map(torch.equal, stored[0], found)):
            raise Unstackable(f"the frozen weights differ: {name}")


def _frozen(module: nn.Module) -> torch.Tensor:
    if isinstance(module, SlicedLinear):
        return torch.cat([_frozen(part) for part in module.children()])
    return dense_weight(getattr(module, "base_layer", module))  # of adapted layers that are not fused, too


def _share_frozen(modules: Sequence[nn.Module], heads: Sequence[str]) -> None:
    """Equal frozen tensors of one name get one memory, those of heads aside.

    Raises:
        Unstackable: frozen tensors of one name differ.
    """
    first = dict(_shareable(modules[0], heads))
    for module in modules[1:]:
        for name, tensor in _shareable(module, heads):
            found = first.get(name)
            if found is None or tensor.data_ptr() == found.data_ptr():
                continue
            if found.shape != tensor.shape or found.dtype != tensor.dtype or not torch.equal(found.data, tensor.data):
                raise Unstackable(f"the frozen weights differ: {name}")
            tensor.data = found.data


def _shareable(module: nn.Module, heads: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    own = tuple(f"{name}." for name in heads)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.requires_grad and not name.startswith(own):
            yield name.replace(".base_layer.", "."), tensor
