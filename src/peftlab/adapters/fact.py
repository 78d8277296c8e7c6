"""FacT: factor tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from peftlab.adapters._inserted import Insert, Inserting, check_dropout, insert_after
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError
from peftlab.nn.roles import ATTENTION, FEED_FORWARD, Site

_SHARED = "fact"  #: name of the factors that all layers share, a child of the backbone


class _Shared(nn.Module):
    """U, V [d, r], and for the Tucker form the core C [r, r, r]."""

    def __init__(self, u: torch.Tensor, v: torch.Tensor, core: torch.Tensor | None) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(u), nn.Parameter(v)
        self.core = nn.Parameter(core) if core is not None else None


class _Slots(nn.Module):
    """The slices of one linear map [a d] -> [b d]: a b matrices d x d, of which a or b is 1."""

    def __init__(self, own: torch.Tensor, ins: int, outs: int, offset: int) -> None:
        super().__init__()
        self.own = nn.Parameter(own)  #: Sigma [a b, r, r] (tensor train) or the rows of P [a b, r] (Tucker)
        self.ins, self.outs, self.offset = ins, outs, offset

    def middle(self, shared: _Shared) -> torch.Tensor:
        """[a, b, r, r]: what stands between U and V."""
        middle = self.own if shared.core is None else torch.einsum("np,prs->nrs", self.own, shared.core)
        return middle.view(self.ins, self.outs, *middle.shape[1:])


class _Update(Insert):
    def __init__(self, shared: _Shared, slots: Mapping[str, _Slots], scale: float, dropout: float) -> None:
        super().__init__()
        self.slots = nn.ModuleDict(slots)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        self._shared = (shared,)  # in a tuple: not registered here again, its parameters are counted once, under the backbone

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        (shared,) = self._shared
        parts = [self._part(x, slots, shared) for slots in self.slots.values()]  # pyright: ignore
        return output + self.scale * self._placed(parts, output)

    def _part(self, x: torch.Tensor, slots: _Slots, shared: _Shared) -> torch.Tensor:
        """x U M V^T, chunk by chunk:  [..., a d] -> [..., b d]."""
        chunks = x.unflatten(-1, (slots.ins, -1)) @ shared.u  # [..., a, r]
        mixed = self.dropout(torch.einsum("...ar,abrs->...bs", chunks, slots.middle(shared)))
        return (mixed @ shared.v.T).flatten(-2)

    def _placed(self, parts: Sequence[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Side by side in the order of their offsets, zero where a fused layer has no update."""
        if sum(part.shape[-1] for part in parts) == output.shape[-1]:
            return torch.cat(list(parts), dim=-1) if len(parts) > 1 else parts[0]
        whole = torch.zeros_like(output)
        for slots, part in zip(self.slots.values(), parts, strict=True):
            whole[..., slots.offset : slots.offset + part.shape[-1]] = part  # pyright: ignore
        return whole


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FacT(Inserting):
    """dW = s U M V^T per d x d slice of q, k, v, o, up and down; U and V shared by all layers (Jie & Deng 2023, section 3).

    The L blocks' weights are one tensor [12 L, d, d] (q, k, v, o one slice each, up and down four each; in general their width
    over d). Tensor train: M = Sigma_n [r, r] per slice. Tucker: M = sum_p P_np C_p, P [12 L, r], C [r, r, r].
    y = W x + b + s V M^T U^T x in column form. V starts at zero, the others as the released code's layers do. merge: exact.
    Trainable parameters: tt 2 d r + 12 L r^2, tk 2 d r + 12 L r + r^3. ViT-B: tt r 4: 8,448 (the paper's "8K"), r 16: 61,440.
    """

    name: ClassVar[str] = "fact"
    citation: ClassVar[str] = """@inproceedings{jie2023fact,
  title = {{FacT}: Factor-Tuning for Lightweight Adaptation on Vision Transformer},
  author = {Jie, Shibo and Deng, Zhi-Hong},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence}, year = {2023},
  volume = {37}, pages = {1060--1068}, doi = {10.1609/aaai.v37i1.25187}
}"""

    form: Literal["tt", "tk"] = "tt"  #: tensor train or Tucker
    rank: int = 16
    scale: float = 1.0  #: s; the paper chooses it per data set from 0.01 to 100
    dropout: float = 0.0  #: between M and V, in training

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if self.rank < 1:
            raise OptionError(f"rank must be at least 1, got {self.rank}", where="rank", remedy="use a positive rank")
        if not self.scale > 0:
            raise OptionError(f"scale must be positive, got {self.scale}", where="scale", remedy="e.g. 1.0")

    def sites(self, backbone: Backbone) -> list[Site]:
        wanted = (*ATTENTION, *FEED_FORWARD)
        found = [site for site in backbone.roles.sites if site.block is not None and site.role in wanted]
        missing = sorted({"q", "k", "v", "o", "up", "down"} - {site.role for site in found})
        if missing:
            raise OptionError(
                f"this backbone has no {', '.join(missing)} layer that can be adapted on its own",
                where="adapter",
                remedy="FacT needs q, k, v, o, up and down in every block (ViT, DeiT, DINOv2, BERT, GPT-2)",
            )
        width = _width(found)
        odd = next((s for s in found if s.d_in % width or s.d_out % width or width not in (s.d_in, s.d_out)), None)
        if odd:
            raise OptionError(
                f"{odd.name} ({odd.d_in} -> {odd.d_out}) does not split into slices of {width} x {width}",
                where="adapter",
                remedy="FacT needs layer widths that are multiples of the model's; use lora",
            )
        if self.rank > width:
            raise OptionError(f"rank {self.rank} is above the width {width}", where="adapter.rank", remedy="lower the rank")
        return found

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        r, width = self.rank, _width(sites)
        slices = sum(site.d_in * site.d_out // width**2 for site in sites)
        return 2 * width * r + (slices * r**2 if self.form == "tt" else slices * r + r**3)

    def insert(self, backbone: Backbone, random: torch.Generator) -> None:
        sites = self.sites(backbone)
        r, width = self.rank, _width(sites)
        core = _xavier(torch.empty(r, r, r), random) if self.form == "tk" else None
        shared = _Shared(_uniform(torch.empty(width, r), width, random), torch.zeros(width, r), core)
        backbone.module.add_module(_SHARED, shared)
        slices = sum(site.d_in * site.d_out // width**2 for site in sites)
        rows = iter(_xavier(torch.empty(slices, r), random)) if self.form == "tk" else None
        for layer in dict.fromkeys(site.parent or site.name for site in sites):
            slots = {}
            for site in (s for s in sites if (s.parent or s.name) == layer):
                ins, outs = site.d_in // width, site.d_out // width
                if rows is not None:
                    own = torch.stack([next(rows) for _ in range(ins * outs)])
                else:
                    own = _uniform(torch.empty(ins * outs, r, r), r * ins, random)
                slots[site.role] = _Slots(own, ins, outs, site.offset)
            insert_after(backbone.module.get_submodule(layer), _Update(shared, slots, self.scale, self.dropout))

    def merge(self, adapted: Any) -> nn.Module:
        merged = Inserting.merge(self, adapted)
        del merged._modules[_SHARED]
        return merged

    def fold(self, layer: Any, insert: Any, model: nn.Module) -> None:
        shared: Any = model.get_submodule(_SHARED)
        for slots in insert.slots.values():
            full = torch.einsum("dr,abrs,es->adbe", shared.u, slots.middle(shared), shared.v)
            update = self.scale * full.flatten(2, 3).flatten(0, 1)  # [a d, b d]
            columns = slice(slots.offset, slots.offset + update.shape[1])
            if isinstance(layer, nn.Linear):
                layer.weight[columns] += update.T
            else:  # GPT-2's Conv1D is stored [d_in, d_out]
                layer.weight[:, columns] += update


def _width(sites: Sequence[Site]) -> int:
    """d: what the first query projection gets."""
    return next(site.d_in for site in sites if site.role == "q")


def _uniform(tensor: torch.Tensor, inputs: int, random: torch.Generator) -> torch.Tensor:
    """U(-1/sqrt(inputs), 1/sqrt(inputs)), as ``nn.Linear`` starts."""
    return nn.init.uniform_(tensor, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=random)


def _xavier(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return nn.init.xavier_uniform_(tensor, generator=random)
