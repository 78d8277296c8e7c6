"""The last block of a model whose head reads one row: what comes after its attention, computed for few rows.

Keys and values of the last block need every token; its output projection, its norms and its feed-forward layers act on each row
by itself, and where a classifier reads the first token only, nobody ever reads what they make of the others. Their outputs, and
the gradients that come back through them, are zeros or unread: leaving them out changes nothing but rounding (sums over rows
lose terms that are zero) and, where there is dropout, which draws it takes. It saves o, up and down of one block in forward and
backward pass: up to 0.75 of a block, 5 to 6 % of the products of a ViT of twelve blocks.

The library's own modules do it: for the time of a call, the block has another ``forward`` and the place behind its attention a
hook that hands on the first rows. Names, weights and classes stay as they are.

Shape legend: B examples, T tokens, d width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import torch
from torch import nn

from peftlab.nn.fused_layers import watched

#: packages whose modules act on each row by itself unless they are attention; what else stands in a block may look at all rows
_LIBRARIES = frozenset(("torch", "timm", "transformers"))
_ADAPTED = frozenset(("peft", "peftlab"))  #: and of what stands in place of a linear layer
#: rows of an example that go on, the one that is read among them. With fewer than four in all, and with rows that are apart in
#: memory, MKL takes other kernels; the bits of an example would depend on how many are computed with it (in this run, or in a
#: stack of several). And it is the same number whatever the batch, because dropout draws for all of them.
ROWS = 4


def _first(rows: torch.Tensor) -> torch.Tensor:
    """[B, T, d] -> [B, n, d], n = :data:`ROWS`, or T where that is less."""
    return rows[:, :ROWS].contiguous()


def _first_of_all(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook: of every tensor [B, T, d] the first rows."""
    return tuple(_first(value) if torch.is_tensor(value) and value.dim() == 3 else value for value in args)


def _timm(block: Any, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """``timm.models.vision_transformer.Block``: [B, T, d] -> [B, n, d]."""
    x = _first(x) + block.drop_path1(block.ls1(block.attn(block.norm1(x), *args, **options)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _vit(block: Any, hidden_states: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """``ViTLayer`` and ``DeiTLayer`` of transformers: [B, T, d] -> [B, n, d]."""
    attended, _ = block.attention(block.layernorm_before(hidden_states), *args, **options)
    hidden_states = block.dropout(attended) + _first(hidden_states)
    return block.dropout(block.mlp(block.layernorm_after(hidden_states))) + hidden_states


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How a family's block is computed for one row."""

    behind: str  #: what its attention hands all rows to, inside the block
    forward: Callable[..., torch.Tensor] | None = None  #: in place of the block's; None: the hook is enough


#: (library's model, its block) -> form; models of these classes read the first row of the last block and no other
FORMS: dict[tuple[str, str], Form] = {
    ("VisionTransformer", "Block"): Form("attn.proj", _timm),
    ("ViTForImageClassification", "ViTLayer"): Form("attention.o_proj", _vit),
    ("DeiTForImageClassification", "DeiTLayer"): Form("attention.o_proj", _vit),
    **{
        (f"{family}ForSequenceClassification", f"{family}Layer"): Form("attention.output")
        for family in ("Bert", "Roberta", "XLMRoberta", "Electra")
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class LastBlock:
    """The last block of a model, to be computed for the row that is read."""

    name: str  #: dotted, in the plain model
    form: Form

    @contextlib.contextmanager
    def only_read(self, module: nn.Module) -> Iterator[None]:
        """Inside, ``module`` (the model, or one of the same structure) computes it for the first row only."""
        block = _submodule(module, self.name)
        behind = None if block is None else _submodule(block, self.form.behind)
        if block is None or behind is None or "forward" in block.__dict__:  # another structure: as it is
            yield
            return
        handle = behind.register_forward_pre_hook(_first_of_all)
        if self.form.forward is not None:
            block.__dict__["forward"] = functools.partial(self.form.forward, block)
        try:
            yield
        finally:
            block.__dict__.pop("forward", None)
            handle.remove()


def last_block(module: nn.Module, names: Collection[str], layers: Collection[str]) -> LastBlock | str:
    """The last block of ``module`` if it may be computed for one row, else why not.

    Args:
        names: dotted names of its blocks, in order.
        layers: dotted names of the linear layers that may be adapted: whatever stands there acts row by row.
    """
    if not names:
        return "the model has no blocks"
    name = list(names)[-1]
    block = module.get_submodule(name)
    form = FORMS.get((type(module).__name__, type(block).__name__))
    if form is None:
        return f"it is not known what {type(module).__name__} reads of its last block"
    if getattr(module, "global_pool", "token") != "token" or getattr(module, "attn_pool", None) is not None:
        return "the head reads every row"
    if _submodule(block, form.behind) is None:
        return "its last block has another structure"
    prefix = f"{name}."
    places = tuple(layer.removeprefix(prefix) for layer in layers if layer.startswith(prefix))
    for path, part in block.named_modules():
        if watched(part) or "forward" in part.__dict__:
            return f"something acts on {prefix}{path}".rstrip(".")
        package = type(part).__module__.partition(".")[0]
        inside = path in places or path.startswith(tuple(f"{place}." for place in places))
        if package not in (_LIBRARIES | _ADAPTED if inside else _LIBRARIES):
            return f"{type(part).__name__} in the last block may look at every row"
    return LastBlock(name, form)


def _submodule(block: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        block = cast(Any, getattr(block, name, None))
        if not isinstance(block, nn.Module):
            return None
    return block
