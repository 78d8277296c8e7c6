"""Where a model can be cut: the last place before which nothing is trained and nothing is drawn at random.

The model is followed once, on a few examples and in training mode. Autograd says where training begins: the output of a block
that needs no gradient lies before everything that is trained, whatever the adapter is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peftlab.adapters.contract import Adapted
from peftlab.nn.modes import same_modes, train_mode, unmoved
from peftlab.training.prefix import Cut, Inputs, Uncut, hidden_of

_TRAINED = "the first block, or what comes before it, is trained"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def find_cut(adapted: Adapted, inputs: Inputs, *, most: int | None = None) -> Cut:
    """The last place in the model before which nothing is trained and nothing is drawn at random.

    Args:
        inputs: of a few examples, one a row; the model is run on them in training mode.
        most: blocks that may be left out.

    Raises:
        Uncut: there is none.
    """
    rows = {len(value) for value in inputs.values() if value.dim() > 1}
    names = adapted.backbone.roles.names
    if not names:
        raise Uncut("its layers are not arranged in blocks")
    if len(rows) != 1:
        raise Uncut("the rows of a batch are not its examples")
    module = adapted.backbone.module
    blocks = [module.get_submodule(name) for name in names]
    if any(parameter.requires_grad for parameter in blocks[0].parameters()):
        raise Uncut(_TRAINED)
    try:
        calls = _followed(adapted, inputs)
    except Uncut:
        raise
    except Exception as error:  # a kind of tensor that cannot be watched; what is wrong with the model is told when it is trained
        raise Uncut(f"it cannot be followed: {type(error).__name__}: {error}") from error
    order = [call for call in calls if any(call.module is block for block in blocks)]
    if [call.module for call in order] != blocks:
        raise Uncut("its blocks do not run once each, one after another")
    return _cut(adapted, inputs, calls, order, rows.pop(), most)


@dataclasses.dataclass(slots=True)
class _Call:
    """One call of a module while a model was followed; moments are counted in events."""

    module: nn.Module
    outer: tuple[nn.Module, ...]  #: modules whose call it is a part of
    first: Any  #: its first input, if that has no name
    began: int
    drawn_before: int  #: random operations before it
    ended: int = -1
    drawn: int = 0  #: and until it ended
    output: Any = None


class _Dice(TorchDispatchMode):
    """Counts operations that draw random numbers; attention with a dropout of 0 draws none."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and not _without_dropout(func, args, kwargs or {}):
            self.drawn += 1
        return func(*args, **(kwargs or {}))


def _without_dropout(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            return not (args[place] if place < len(args) else kwargs.get("dropout_p", argument.default_value))
    return False


def _followed(adapted: Adapted, inputs: Inputs) -> list[_Call]:
    """Every call of a module of the backbone, the insides of blocks apart, in the order in which they began.

    The model's buffers stay as they are.
    """
    module = adapted.backbone.module
    inside = tuple(f"{name}." for name in adapted.backbone.roles.names)
    calls: list[_Call] = []
    stack: list[_Call] = []
    clock = iter(range(10**9))
    dice = _Dice()

    def enter(called: nn.Module, args: tuple[Any, ...]) -> None:
        first = args[0] if args else None
        stack.append(_Call(called, tuple(call.module for call in stack), first, next(clock), dice.drawn))
        calls.append(stack[-1])

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        call = stack.pop()
        call.ended, call.drawn, call.output = next(clock), dice.drawn, output

    handles = []
    for name, part in module.named_modules():
        if name.startswith(inside):
            continue
        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        with same_modes(adapted.module), unmoved(dict(module.named_buffers())) as changed, dice, torch.enable_grad():
            train_mode(adapted.module)
            adapted.backbone.outputs(adapted.module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if changed:
        raise Uncut(f"its forward pass changes what later ones compute ({changed[0]})")
    return calls


def _cut(adapted: Adapted, inputs: Inputs, calls: list[_Call], order: list[_Call], rows: int, most: int | None) -> Cut:
    heads = [call for call in calls if adapted.backbone.head and call.module is _head(adapted)]
    limit = len(order) if most is None else min(most, len(order))
    frozen = sum(1 for call in order if (hidden := hidden_of(call.output)) is not None and not hidden.requires_grad)
    if not frozen:
        raise Uncut(_TRAINED)
    if not limit:
        raise Uncut("its allocator may adapt the first block")
    if any(getattr(m, kind) for call in order[: min(frozen, limit)] for m in call.module.modules() for kind in _HOOKS):
        raise Uncut("something looks at the blocks before the first trained layer")
    whole = len(heads) == 1 and limit == len(order) and heads[0].began > order[-1].ended and not heads[0].drawn_before
    if whole and torch.is_tensor(kept := heads[0].first) and not kept.requires_grad and len(kept) == rows:
        return _made(adapted, inputs, calls, order, len(order), heads[0], kept)
    for number in range(min(frozen, limit), 0, -1):
        kept = hidden_of(order[number - 1].output)
        if kept is None or kept.requires_grad or len(kept) != rows or order[number - 1].drawn:
            continue
        return _made(adapted, inputs, calls, order, number, None, kept)
    if order[0].drawn:
        raise Uncut("random numbers are drawn before the first trained layer (dropout)")
    raise Uncut("what its blocks hand on is more than hidden states")


def _head(adapted: Adapted) -> nn.Module:
    return adapted.backbone.module.get_submodule(adapted.backbone.head)


def _made(
    adapted: Adapted, inputs: Inputs, calls: list[_Call], order: list[_Call], number: int, head: _Call | None, kept: torch.Tensor
) -> Cut:
    skipped = order[:number]
    if any(hidden_of(call.output) is None for call in skipped):
        raise Uncut("what its blocks hand on is more than hidden states")
    stubs: list[tuple[nn.Module, Callable[..., Any]]] = [(call.module, _passing(call.output)) for call in skipped]
    pixels = {name: tuple(value.shape[1:]) for name, value in inputs.items() if value.is_floating_point()}
    if pixels and len(pixels) == len(inputs):
        before = _outermost(calls, order[0].outer, until=order[0].began)
        stubs += [(call.module, _zeros(call.output)) for call in before if torch.is_tensor(call.output)]
    else:
        pixels = {}
    if head is not None:
        between = _outermost(calls, head.outer, since=order[-1].ended, until=head.began)
        stubs += [(c.module, _passing(c.output)) for c in between if _shape(c.output) == _shape(c.first) is not None]
    if len({id(module) for module, _ in stubs}) != len(stubs):
        raise Uncut("a part of it runs more than once")
    return Cut(
        blocks=number,
        head=head is not None,
        place=head.module if head is not None else order[number - 1].module,
        stubs=tuple(stubs),
        placeholders=pixels,
        shape=tuple(kept.shape[1:]),
        dtype=kept.dtype,
        by_token=not pixels and kept.dim() == 3,
    )


def _outermost(calls: list[_Call], outer: tuple[nn.Module, ...], *, since: int = -1, until: int) -> Iterator[_Call]:
    """Calls that began and ended between the two moments and are no part of one another."""
    around = {id(module) for module in outer}
    for call in calls:
        between = since < call.began and call.ended < until
        if between and id(call.module) not in around and all(id(module) in around for module in call.outer):
            yield call


def _shape(value: Any) -> torch.Size | None:
    return value.shape if torch.is_tensor(value) else None


def _passing(output: Any) -> Callable[..., Any]:
    """Hands its first input on, in the form of ``output``."""
    rest = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else next(iter(kwargs.values()))
        return hidden if rest is None else (hidden, *rest)

    return forward


def _zeros(output: torch.Tensor) -> Callable[..., torch.Tensor]:
    shape, like = tuple(output.shape[1:]), output.detach().new_zeros(())

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        first = args[0] if args else next(iter(kwargs.values()))
        return like.expand(len(first), *shape)

    return forward
