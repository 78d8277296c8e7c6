"""Whether modules are the same but for their tensors and children, so that one of them may be computed in place of all."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, equal, nn

#: what a module notes for saving and loading, or for a library that looks it up later; no forward pass reads it
_NOTES = frozenset(
    (
        "peft_config",
        "_weight_conversions",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    )
)
_HELD = ("_parameters", "_buffers", "_modules")
_CODE = types.FunctionType | types.BuiltinFunctionType | type  #: the same only where it is the same object


def difference(modules: Sequence[nn.Module]) -> str:
    """In what these modules by themselves differ; empty where one's ``forward`` is that of all.

    Compared are classes, the names of what they hold and all other attributes. What cannot be compared counts as different.
    """
    first, *others = modules
    for other in others:
        if type(other) is not type(first):
            return "class"
        for name in sorted((vars(first).keys() | vars(other).keys()) - _NOTES):
            if name in _HELD:
                same = _names(vars(first)[name]) == _names(vars(other)[name])
            else:
                known = {(id(first), id(other))}
                same = name in vars(first) and name in vars(other) and _same(vars(first)[name], vars(other)[name], known)
            if not same:
                return name
    return ""


def same_trees(modules: Sequence[nn.Module]) -> bool:
    """Whether they and all below them differ in nothing but tensors."""
    if difference(modules):
        return False
    children = [[child for child in module._modules.values() if child is not None] for module in modules]
    return all(same_trees(alike) for alike in zip(*children, strict=True))


def _names(held: Mapping[str, Any]) -> list[tuple[str, bool]]:
    return [(name, value is None) for name, value in held.items()]


def _same(a: Any, b: Any, known: set[tuple[int, int]]) -> bool:
    """``known``: pairs that are compared already, or stand for each other."""
    if a is b or (id(a), id(b)) in known:
        return True
    if type(a) is not type(b) or isinstance(a, _CODE):
        return False
    known.add((id(a), id(b)))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.device == b.device and equal(a, b)
    if isinstance(a, nn.Module):
        return False  # registered it would be a child; here nobody knows who else has it
    if isinstance(a, functools.partial):
        return _same([a.func, a.args, a.keywords], [b.func, b.args, b.keywords], known)
    if isinstance(a, types.MethodType):
        return a.__func__ is b.__func__ and _same(a.__self__, b.__self__, known)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_same(a[key], b[key], known) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(one, other, known) for one, other in zip(a, b, strict=True))
    if type(a).__eq__ is object.__eq__:
        return hasattr(a, "__dict__") and _same(vars(a), vars(b), known)
    try:
        return bool(a == b)
    except (RuntimeError, TypeError, ValueError):  # of arrays, say, whose comparison is no truth value
        return False
