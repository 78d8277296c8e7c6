"""Every linear layer of a transformer, mapped to (block, role).

Names differ by model family and by library version; users say what they mean (``targets: standard``) and this file finds the
layers. Roles: ``q k v o`` (attention projections), ``qkv`` (the three fused in one layer), ``up gate down`` (feed-forward),
``other``.

A fused layer has slices: its q, k and v rows are sites of their own (``blocks.0.attn.qkv.q``), so that counts and results equal
those of separate projections. ``targets: fused`` adapts the fused layer as one matrix instead, as PEFT would.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from torch import nn

from peftlab.errors import OptionError, nearest

#: (pattern on the dotted name, role); the first that matches decides
_NAMES: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(qkv|c_attn|qkv_proj|Wqkv|in_proj|query_key_value)$", "qkv"),
    (r"(^|\.)(q_proj|query|q_lin|to_q|query_proj|q)$", "q"),
    (r"(^|\.)(k_proj|key|k_lin|to_k|key_proj|k)$", "k"),
    (r"(^|\.)(v_proj|value|v_lin|to_v|value_proj|v)$", "v"),
    (r"(^|\.)(o_proj|out_proj|out_lin|to_out(\.0)?|o)$", "o"),
    (r"(attn|attention|self_attention|crossattention)\.(proj|c_proj|dense|output\.dense)$", "o"),
    (r"(^|\.)gate_proj$", "gate"),
    (r"(^|\.)(fc1|up_proj|c_fc|lin1|dense_h_to_4h|intermediate\.dense|linear1|wi)$", "up"),
    (r"(^|\.)(fc2|down_proj|lin2|dense_4h_to_h|output\.dense|linear2|wo)$", "down"),
    (r"mlp\.c_proj$", "down"),
)
_CONTAINERS = frozenset("layers layer blocks block h encoder_layers stages".split())
#: fused layers whose rows are [q; k; v] in three equal parts (GPT-NeoX and BLOOM interleave per head: no slices there)
_THIRDS = re.compile(r"(^|\.)(qkv|c_attn|Wqkv|in_proj)$")

ATTENTION = ("q", "k", "v", "o")
FEED_FORWARD = ("up", "gate", "down")
#: what ``targets`` can say in one word -> roles
NAMED_TARGETS: dict[str, tuple[str, ...]] = {
    "standard": ("q", "v"),
    "extended": ATTENTION,
    "attention": ATTENTION,
    "feed-forward": FEED_FORWARD,
    "all-linear": (*ATTENTION, *FEED_FORWARD, "other"),
    "fused": ("qkv",),
}
_BLOCKS = re.compile(r"blocks?:(\d+)(?:-(\d+))?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A linear map [d_in] -> [d_out] that can be adapted: a layer, or a slice of a fused one.

    ``name`` is the layer's dotted name; a slice is named ``<fused layer>.<role>`` and covers the output rows
    ``offset : offset + d_out`` of ``parent``.
    """

    name: str
    role: str
    block: int | None
    d_in: int
    d_out: int
    parent: str | None = None
    offset: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Roles:
    """All sites of a model, and what had to be guessed."""

    sites: tuple[Site, ...]
    blocks: int
    notes: tuple[str, ...] = ()


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_in, d_out) of a linear layer, GPT-2's transposed Conv1D included; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return tuple(module.weight.shape)  # pyright: ignore  # [d_in, d_out]
    return None


def find_roles(model: nn.Module, head: str | None = None) -> Roles:
    """Map every linear layer outside the head to its block and role.

    Unknown names inside a block fall back to shapes (and a note says so): d -> 3d is a fused qkv, widening is ``up``, narrowing
    is ``down``, square is ``other``.
    """
    prefixes: dict[str, int] = {}
    sites: list[Site] = []
    guessed: list[str] = []
    for name, module in model.named_modules():
        shape = linear_shape(module)
        if shape is None or (head and (name == head or name.startswith(head + "."))):
            continue
        prefix = _block_prefix(name)
        if prefix is None:
            sites.append(Site(name=name, role="outside", block=None, d_in=shape[0], d_out=shape[1]))
            continue
        block = prefixes.setdefault(prefix, len(prefixes))
        role = next((role for pattern, role in _NAMES if re.search(pattern, name)), None)
        if role is None:
            role = "up" if shape[1] > shape[0] else "down" if shape[1] < shape[0] else "other"
            guessed.append(f"{name} ({shape[0]} -> {shape[1]}) taken for {role!r}")
        sites.append(Site(name=name, role=role, block=block, d_in=shape[0], d_out=shape[1]))
        if role == "qkv" and shape[1] == 3 * shape[0] and _THIRDS.search(name):
            sites += [
                Site(name=f"{name}.{part}", role=part, block=block, d_in=shape[0], d_out=shape[0], parent=name, offset=i * shape[0])
                for i, part in enumerate("qkv")
            ]
    notes = ("roles guessed from shapes: " + "; ".join(guessed[:6]),) if guessed else ()
    return Roles(tuple(sites), len(prefixes), notes)


def _block_prefix(name: str) -> str | None:
    """``vit.layers.3`` of ``vit.layers.3.mlp.fc1``: up to the last number that follows a container of blocks."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        if parts[i].isdigit() and parts[i - 1] in _CONTAINERS:
            return ".".join(parts[: i + 1])
    return None


def select(roles: Roles, targets: str | Sequence[str], where: str = "targets") -> list[Site]:
    """The sites a user means.

    Args:
        targets: one of :data:`NAMED_TARGETS`, a role, a regular expression on layer names, a block range (``blocks:8-11``), or several of
            these: roles and names add up, block ranges restrict. ``"q,v"`` means the same as ``["q", "v"]``.

    Raises:
        OptionError: something matches nothing here.
    """
    words = [w.strip() for w in targets.split(",")] if isinstance(targets, str) else list(targets)
    ranges = [m for w in words if (m := _BLOCKS.fullmatch(w))]
    wanted = [w for w in words if not _BLOCKS.fullmatch(w)] or ["all-linear"]
    chosen: dict[str, Site] = {}
    for word in wanted:
        found = _matching(roles, word, where)
        if not found:
            known = {*NAMED_TARGETS, *(s.role for s in roles.sites if s.block is not None)}
            raise OptionError(f"{word!r} matches no linear layer of this backbone", where=where, remedy=nearest(word, known))
        chosen |= {site.name: site for site in found}
    for match in ranges:
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= roles.blocks:
            raise OptionError(f"{match[0]!r} is not within blocks 0-{roles.blocks - 1}", where=where, remedy="use blocks that exist")
    if ranges:
        allowed = {b for m in ranges for b in range(int(m[1]), int(m[2] or m[1]) + 1)}
        chosen = {name: site for name, site in chosen.items() if site.block in allowed}
    parents = {site.parent for site in chosen.values()}
    clash = next((site.name for site in chosen.values() if site.name in parents), None)
    if clash:
        raise OptionError(f"{clash} is wanted both whole and in slices", where=where, remedy="choose `fused` or q, k, v")
    return [site for site in roles.sites if site.name in chosen]


def _matching(roles: Roles, word: str, where: str) -> Iterable[Site]:
    wanted = NAMED_TARGETS.get(word, (word,))
    inside = [site for site in roles.sites if site.block is not None]
    found = [site for site in inside if site.role in wanted]
    if word not in NAMED_TARGETS and not found:
        try:
            pattern = re.compile(word)
        except re.error as error:
            raise OptionError(f"{word!r} is no regular expression: {error}", where=where, remedy="escape special characters") from error
        found = [site for site in roles.sites if site.parent is None and pattern.search(site.name)]
    elif word == "all-linear" or set(ATTENTION) <= set(wanted):
        # a fused layer that has no slices counts as attention
        parents = {site.parent for site in inside}
        found += [site for site in inside if site.role == "qkv" and site.name not in parents]
    return found
