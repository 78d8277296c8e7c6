"""The frozen prefix of a model: what comes before anything trained, and how to leave it out where its output is known.

The library's own forward pass runs, with the ``forward`` of what lies before the cut replaced for the time of the call: blocks
hand their input on, the last of them gives the hidden states that it is told. Names, weights and hooks stay as they are. Where
the cut is, training/prefix_search.py finds.

Shape legend: B examples, T tokens, d width.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.nn.quantized import stored_tensors

KEY = "prefix"  #: of the hidden states among the inputs of a model
Inputs = Mapping[str, torch.Tensor]


class Uncut(Exception):
    """Why a model has no prefix that could be left out."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a model is cut: behind block ``blocks - 1``, or before its head."""

    blocks: int  #: that are left out
    head: bool  #: the head's input is kept, and everything before it left out
    place: nn.Module  #: the block whose output is kept, or the head whose input is
    stubs: tuple[tuple[nn.Module, Callable[..., Any]], ...]  #: what is left out, and what stands in for it
    placeholders: Mapping[str, tuple[int, ...]]  #: inputs that nothing behind the cut needs: shape of one example
    shape: tuple[int, ...]  #: of the hidden states of one example
    dtype: torch.dtype
    by_token: bool  #: hidden states are [B, T, d] of texts that have lengths

    @property
    def name(self) -> str:
        return "head" if self.head else f"block {self.blocks}"

    @contextlib.contextmanager
    def given(self, hidden: torch.Tensor) -> Iterator[None]:
        """Inside, the model begins at the cut, with these hidden states."""
        handle = None
        if self.head:
            handle = self.place.register_forward_pre_hook(lambda _, args: (hidden, *args[1:]), prepend=True)
        before = [(module, module.__dict__.get("forward")) for module, _ in self.stubs]
        for module, stub in self.stubs:
            module.__dict__["forward"] = functools.partial(stub, hidden) if module is self.place else stub
        try:
            yield
        finally:
            for module, forward in before:
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward
            if handle is not None:
                handle.remove()


def tail(adapted: Adapted, cut: Cut) -> Adapted:
    """The same model; given hidden states as the input ``prefix``, its ``outputs`` begin at the cut."""
    plain = adapted.backbone.outputs

    def outputs(module: nn.Module, inputs: Inputs) -> Any:
        hidden = inputs.get(KEY)
        if hidden is None:
            return plain(module, inputs)
        rest = {name: value for name, value in inputs.items() if name != KEY}
        for name, shape in cut.placeholders.items():
            rest[name] = hidden.new_zeros(()).expand(len(hidden), *shape)
        with cut.given(hidden):
            return plain(module, rest)

    backbone = copy.copy(adapted.backbone)  # dataclasses.replace would look for roles again, in the adapted model
    backbone.outputs = outputs
    return dataclasses.replace(adapted, backbone=backbone)


@torch.no_grad()
def hidden_states(adapted: Adapted, cut: Cut, inputs: Inputs) -> torch.Tensor:
    """What arrives at the cut, [B, ...]; the model is left there. In the mode that it is in."""

    def at_head(_: nn.Module, args: tuple[Any, ...]) -> None:
        raise _Reached(args[0])

    def behind_block(_: nn.Module, __: Any, output: Any) -> None:
        raise _Reached(hidden_of(output))

    place = cut.place
    handle = place.register_forward_pre_hook(at_head) if cut.head else place.register_forward_hook(behind_block)
    try:
        adapted.backbone.outputs(adapted.module, inputs)
    except _Reached as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise Uncut("the model ended before the cut")


class _Reached(Exception):
    def __init__(self, hidden: Any) -> None:
        super().__init__()
        self.hidden = hidden


def frozen_in_prefix(adapted: Adapted, cut: Cut) -> dict[str, torch.Tensor]:
    """Name in the plain backbone -> every frozen tensor that may act before the cut, what quantized layers store among them."""
    backbone = adapted.backbone
    behind = () if cut.head else backbone.roles.names[cut.blocks :]
    apart = tuple(f"{name}." for name in (*behind, *backbone.heads))
    module = backbone.module
    named = [*module.named_parameters(), *module.named_buffers(), *stored_tensors(module)]
    return {name: t for name, t in named if not name.startswith(apart) and not t.requires_grad}


def hidden_of(output: Any) -> torch.Tensor | None:
    """The hidden states [B, ...] of a block's output; None where it has more to say."""
    if torch.is_tensor(output):
        return output
    if type(output) is tuple and output and torch.is_tensor(output[0]) and all(rest is None for rest in output[1:]):
        return cast("torch.Tensor", output[0])
    return None
