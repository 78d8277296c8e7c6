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

#: (pattern on the name inside the block, role), for layers of an attention module; the first that matches decides
_ATTENTION_NAMES: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(qkv|c_attn|qkv_proj|Wqkv|in_proj|query_key_value)$", "qkv"),
    (r"(^|\.)(q_proj|query|q_lin|to_q|query_proj|q)$", "q"),
    (r"(^|\.)(k_proj|key|k_lin|to_k|key_proj|k)$", "k"),
    (r"(^|\.)(v_proj|value|v_lin|to_v|value_proj|v)$", "v"),
    (r"(^|\.)(o_proj|out_proj|out_lin|to_out(\.0)?|o|proj|c_proj|dense|Wo)$", "o"),
)
#: the same for all other layers
_OTHER_NAMES: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(gate_proj|wi_0)$", "gate"),
    (r"(^|\.)(fc1|up_proj|c_fc|lin1|dense_h_to_4h|intermediate\.dense|linear1|wi|wi_1)$", "up"),
    (r"(^|\.)(fc2|down_proj|lin2|dense_4h_to_h|output\.dense|linear2|wo|mlp\.c_proj)$", "down"),
)
_IN_ATTENTION = re.compile(r"(?i)att(n|ention)[^.]*\.")
_CONTAINERS = frozenset("layers layer blocks block h encoder_layers stages".split())
#: fused layers whose rows are [q; k; v] in three equal parts (GPT-NeoX, BLOOM, DeBERTa v1 interleave per head: no slices)
_THIRDS = re.compile(r"(^|\.)(qkv|Wqkv)$")

ATTENTION = ("q", "k", "v", "o")
FEED_FORWARD = ("up", "gate", "down")
_ROLES = frozenset((*ATTENTION, *FEED_FORWARD, "qkv", "other"))
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
    names: tuple[str, ...] = ()  #: dotted name of every block


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_in, d_out) of a linear layer, GPT-2's transposed Conv1D included; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return tuple(module.weight.shape)  # pyright: ignore  # [d_in, d_out]
    return None


def find_roles(model: nn.Module, head: str | None = None) -> Roles:
    """Map every linear layer outside the head to its block and role.

    Unknown names inside a block fall back to shapes (and a note says so): in an attention module d -> 3d is a fused qkv (without
    slices, since the order of its rows is unknown) and the rest ``other``; elsewhere widening is ``up``, narrowing ``down``,
    square ``other``. Layers outside the blocks (poolers, patch merging, language-model heads) have the role ``outside``.
    """
    layers = {
        name: shape
        for name, module in model.named_modules()
        if not (head and (name == head or name.startswith(head + "."))) and (shape := linear_shape(module)) is not None
    }
    prefixes, notes = _block_prefixes(layers)
    numbers = {prefix: i for i, prefix in enumerate(dict.fromkeys(p for p in prefixes.values() if p is not None))}
    sites: list[Site] = []
    guessed: list[str] = []
    for name, (d_in, d_out) in layers.items():
        prefix = prefixes[name]
        if prefix is None:
            sites.append(Site(name=name, role="outside", block=None, d_in=d_in, d_out=d_out))
            continue
        role = _role(name[len(prefix) + 1 :])
        if role is None:
            role = _role_from_shape(name[len(prefix) + 1 :], d_in, d_out)
            guessed.append(f"{name} ({d_in} -> {d_out}) taken for {role!r}")
        if (
            _THIRDS.search(name) and getattr(model.get_submodule(name.rpartition(".")[0]), "q_bias", None) is not None
        ):  # timm: BEiT, Swin v2
            notes.append(f"{name} is not called but read by its module (biases kept apart): it cannot be adapted")
            continue
        sites.append(Site(name=name, role=role, block=numbers[prefix], d_in=d_in, d_out=d_out))
        if role == "qkv" and d_out == 3 * d_in and _in_thirds(name, model.get_submodule(name)):
            sites += [
                Site(name=f"{name}.{part}", role=part, block=numbers[prefix], d_in=d_in, d_out=d_in, parent=name, offset=i * d_in)
                for i, part in enumerate("qkv")
            ]
    if guessed:
        notes.append(f"{len(guessed)} roles guessed from shapes: " + "; ".join(guessed[:6]))
    return Roles(tuple(sites), len(numbers), tuple(notes), tuple(numbers))


def _role(name: str) -> str | None:
    """Role by the name inside the block. ``key`` is a key projection in attention only: RWKV has one in its feed-forward."""
    names = _ATTENTION_NAMES if _IN_ATTENTION.search(name) else _OTHER_NAMES
    return next((role for pattern, role in names if re.search(pattern, name)), None)


def _role_from_shape(name: str, d_in: int, d_out: int) -> str:
    if _IN_ATTENTION.search(name):
        return "qkv" if d_out == 3 * d_in else "other"
    return "up" if d_out > d_in else "down" if d_out < d_in else "other"


def _in_thirds(name: str, module: nn.Module) -> bool:
    """GPT-2's c_attn is a Conv1D in thirds; GPT-BigCode's, an ``nn.Linear`` of the same name, interleaves per head."""
    return _THIRDS.search(name) is not None or (name.endswith("c_attn") and not isinstance(module, nn.Linear))


def _block_prefixes(names: Iterable[str]) -> tuple[dict[str, str | None], list[str]]:
    """Layer name -> prefix of its block (``vit.layers.3`` of ``vit.layers.3.mlp.fc1``), None outside the blocks; and notes."""
    prefixes = {name: _block_prefix(name, _CONTAINERS) for name in names}
    notes = []
    if prefixes and not any(prefixes.values()):
        prefixes = {name: _block_prefix(name, None) for name in names}
        if any(prefixes.values()):
            notes.append("unknown family: numbered modules are taken for its blocks")
    # a stage that holds blocks (Swin's layers.0 with its blocks.N and a downsampling layer) is no block itself
    stages = {outer for outer in prefixes.values() if outer and any(p and p.startswith(outer + ".") for p in prefixes.values())}
    return {name: None if prefix in stages else prefix for name, prefix in prefixes.items()}, notes


def _block_prefix(name: str, containers: frozenset[str] | None) -> str | None:
    """Up to the last number that follows a container of blocks (None: any number counts)."""
    parts = name.split(".")
    found = [
        i for i, part in enumerate(parts) if part.isdigit() and (containers is None or (i > 0 and parts[i - 1] in containers))
    ]
    if len(found) > 1 and (parts[found[-2] - 1], parts[found[-1] - 1]) == ("block", "layer"):
        found.pop()  # T5: block.3.layer.1 is a part of block 3
    return ".".join(parts[: found[-1] + 1]) if found else None


def select(roles: Roles, targets: str | Sequence[str], where: str = "targets") -> list[Site]:
    """The sites a user means.

    Args:
        targets: one of :data:`NAMED_TARGETS`, a role, a regular expression on layer names, a block range (``blocks:8-11``), or
            several of these: roles and names add up, block ranges restrict. ``"q,v"`` means the same as ``["q", "v"]``; an
            expression with a comma needs the list.

    Raises:
        OptionError: something matches nothing here.
    """
    words = [w.strip() for w in (targets.split(",") if isinstance(targets, str) else targets)]
    if not words or "" in words:
        raise OptionError("an empty target", where=where, remedy="write e.g. standard, or a list of roles")
    ranges = [m for w in words if (m := _BLOCKS.fullmatch(w))]
    wanted = [w for w in words if not _BLOCKS.fullmatch(w)] or ["all-linear"]
    chosen: dict[str, Site] = {}
    for word in wanted:
        found = _matching(roles, word, where)
        if not found:
            raise OptionError(f"{word!r} matches no linear layer of this backbone", where=where, remedy=_known(roles, word))
        chosen |= {site.name: site for site in found}
    for match in ranges:
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= roles.blocks:
            raise OptionError(
                f"{match[0]!r} is not within blocks 0-{roles.blocks - 1}", where=where, remedy="use blocks that exist"
            )
    if ranges:
        allowed = {b for m in ranges for b in range(int(m[1]), int(m[2] or m[1]) + 1)}
        chosen = {name: site for name, site in chosen.items() if site.block in allowed}
        if not chosen:
            raise OptionError(f"{targets!r} leaves no layer in these blocks", where=where, remedy="widen the block range")
    parents = {site.parent for site in chosen.values()}
    clash = next((site.name for site in chosen.values() if site.name in parents), None)
    if clash:
        raise OptionError(f"{clash} is wanted both whole and in slices", where=where, remedy="choose `fused` or q, k, v")
    return [site for site in roles.sites if site.name in chosen]


def _known(roles: Roles, word: str) -> str:
    present = sorted({site.role for site in roles.sites if site.block is not None})
    if word in NAMED_TARGETS or word in _ROLES:
        return f"its layers have the roles {', '.join(present) or '(none)'}"
    return nearest(word, {*NAMED_TARGETS, *present})


def _matching(roles: Roles, word: str, where: str) -> list[Site]:
    inside = [site for site in roles.sites if site.block is not None]
    if word not in NAMED_TARGETS and word not in _ROLES:  # a role is never read as a pattern: "v" would match "vit"
        try:
            pattern = re.compile(word)
        except re.error as error:
            raise OptionError(
                f"{word!r} is no regular expression: {error}", where=where, remedy="escape special characters"
            ) from error
        return [site for site in roles.sites if site.parent is None and pattern.search(site.name)]
    wanted = NAMED_TARGETS.get(word, (word,))
    found = [site for site in inside if site.role in wanted]
    if set(ATTENTION) <= set(wanted):  # a fused layer that has no slices counts as attention
        parents = {site.parent for site in inside}
        found += [site for site in inside if site.role == "qkv" and site.name not in parents]
    return found
