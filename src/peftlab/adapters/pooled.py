"""QA-LoRA's adapter: LoRA on group means, which merges into the zero points of a quantized weight."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from peftlab.adapters._own_layers import OwnLayers
from peftlab.adapters._peft import check_ranks
from peftlab.adapters._plain import load_tensors, save_tensors, saved_tensors
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError
from peftlab.nn.fused_layers import Fused, fuse_layers
from peftlab.nn.groups import check_group_size
from peftlab.nn.packed import PackedLinear
from peftlab.nn.parts import Part
from peftlab.nn.pooled import Pooled, PooledLinear, PooledTriplets
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.roles import Site, select
from peftlab.nn.surgery import SlicedLinear, fuse_slices
from peftlab.quantizers.contract import Quantizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PooledLora(OwnLayers):
    """y = W~ x + s g B A mean_g(x), with A [r, L], B [d_out, r] zero and L = d_in/g groups (Xu et al. 2023, section 3.3).

    The update s B A is constant within each group, so a weight quantized in the same groups takes it up exactly: integers
    W~ = a (q - b) by b' = b - s B A / a, code books W~ = m book[q] + c by c' = c + s B A; no code changes. s = alpha/rank, by
    default LoRA's 2. (The official code leaves out g and divides by g when merging: its s is g times this one.) Dropout acts on
    the means, as there. Trainable parameters: sum over sites of r (L + d_out), with ``form: svd`` r (L + d_out + 1).

    QA-LoRA is this with ``quantizer: groupwise``, whose group size is taken. On float weights, or those of another quantizer,
    ``group_size`` has to be given, and the update is merged into float weights. A site's d_in is L here: what is adapted is
    the map from group means, so that ranks go up to min(L, d_out) and allocators count its true price. Saved as safetensors
    under the names in the adapted model, with a configuration: PEFT has no format for it.
    """

    name: ClassVar[str] = "pooled"
    methods: ClassVar[Mapping[str, str]] = {
        "QA-LoRA": "adapter: pooled, quantizer: {name: groupwise, type: int4, group_size: 32}",
    }
    has_rank: ClassVar[bool] = True
    takes_slices: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{xu2024qalora,
  title = {{QA-LoRA}: Quantization-Aware Low-Rank Adaptation of Large Language Models},
  author = {Xu, Yuhui and Xie, Lingxi and Gu, Xiaotao and Chen, Xin and Chang, Heng and Zhang, Hengheng and Chen, Zhengsu
    and Zhang, Xiaopeng and Tian, Qi},
  booktitle = {International Conference on Learning Representations}, year = {2024},
  eprint = {2309.14717}, archivePrefix = {arXiv}
}"""

    rank: int = 4
    dropout: float = 0.0  #: on the group means, in training
    group_size: int | None = None  #: g; default the quantizer's
    form: Literal["lora", "svd"] = "lora"  #: svd: P diag(lambda) Q in place of B A, for ``allocator: adalora``
    #: A uniform in +-1/sqrt(d_in), so that A g mean_g(x) is as large as A x in LoRA; xavier (official code): +-sqrt(6/(L + r))
    init: Literal["lora", "xavier"] = "lora"

    def __post_init__(self) -> None:
        OwnLayers.__post_init__(self)
        if self.group_size is not None and self.group_size < 1:
            raise OptionError(f"must be at least 1, got {self.group_size}", where="group_size", remedy="e.g. 32")
        if self.form == "svd" and self.init != "lora":
            raise OptionError("'form: svd' has its own initial values", where="init", remedy="remove it")

    @property
    def has_triplets(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.form == "svd"

    def fitted(self, quantizer: Quantizer, where: str = "adapter") -> PooledLora:
        theirs = quantizer.shared_inputs
        if self.group_size is None and theirs is None:
            raise OptionError(
                f"quantizer {quantizer.name!r} has no groups to take the group size from",
                where=f"{where}.group_size",
                remedy="use `quantizer: groupwise`, or give the adapter a group_size",
            )
        if self.group_size is not None and theirs is not None and theirs != self.group_size:
            raise OptionError(
                f"means over {self.group_size} inputs do not merge into groups of {theirs}",
                where=f"{where}.group_size",
                remedy="remove it: the quantizer's group size is taken",
            )
        return dataclasses.replace(self, group_size=theirs or self.group_size)

    def sites(self, backbone: Backbone) -> list[Site]:
        g, sites = self._group(), []
        for site in select(backbone.roles, self.targets, where="adapter.targets"):
            check_group_size(site.d_in, g, f"adapter.group_size, {site.name}")
            sites.append(dataclasses.replace(site, d_in=site.d_in // g))
        check_ranks(sites, dict.fromkeys((s.name for s in sites), self.rank), "adapter.rank", group=g)
        return sites

    def _group(self) -> int:
        if self.group_size is None:
            raise OptionError("no group size", where="adapter.group_size", remedy="give one, or use `quantizer: groupwise`")
        return self.group_size

    def cost(self, site: Site, rank: int) -> int:
        return rank * (site.d_in + site.d_out + self.has_triplets)

    def layer(self, base: nn.Module, site: Site, rank: int, random: torch.Generator) -> nn.Module:
        g = self._group()
        if self.form == "svd":
            return PooledTriplets(base, rank, self.scale, self.dropout, random, group_size=g)
        bound = 1 / math.sqrt(g * site.d_in) if self.init == "lora" else math.sqrt(6 / (site.d_in + rank))
        return PooledLinear(base, rank, self.scale, self.dropout, random, group_size=g, bound=bound)

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        """Scaled by sqrt(g), as norms and singular values of an update that repeats over the g columns of a group are."""
        layers, g = pooled_layers(adapted.module), self._group()
        return {
            site.name: Part(
                tensors=layers[site.name].factor_tensors(), d_in=g * site.d_in, d_out=site.d_out, scale=self.scale * math.sqrt(g)
            )
            for site in adapted.sites
        }

    def update_norms(self, adapted: Adapted) -> dict[str, float]:
        """sqrt(g) ||s B A||: each entry of the update stands for the g columns of its group."""
        layers = pooled_layers(adapted.module).items()
        return {name: math.sqrt(layer.group_size) * float(layer.update().norm()) for name, layer in layers}

    @property
    def shared_inputs(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.group_size

    def updates(self, adapted: Adapted) -> Iterator[tuple[str, int, torch.Tensor]]:
        for name, layer in pooled_layers(adapted.module).items():
            rank = len(layer.exported()[0])
            yield name, rank, layer.update().repeat_interleave(layer.group_size, dim=1)

    def fuse(self, adapted: Adapted) -> Fused:
        return fuse_layers(adapted.module, pooled_layers(adapted.module).items())

    def merge(self, adapted: Adapted) -> nn.Module:
        """Packed layers stay packed (with the codes that they had); in all others the update goes into float weights."""
        merged = copy.deepcopy(adapted.module)
        layers = {name: layer.merged() for name, layer in pooled_layers(merged).items()}
        for name, layer in layers.items():
            merged.set_submodule(name, layer)
        if not all(isinstance(layer, PackedLinear) for layer in layers.values()):
            make_dense(merged)
        for name, module in list(merged.named_modules()):
            if isinstance(module, SlicedLinear):
                parts = [part for part in module.children() if isinstance(part, PackedLinear)]
                if len(parts) == 3:
                    whole = PackedLinear.stacked(parts)
                    whole.transposed = module.transposed
                    merged.set_submodule(name, whole)
        fuse_slices(restore_conv1d(merged))
        return merged

    def save(self, adapted: Adapted, folder: Path) -> None:
        save_tensors(adapted, folder)

    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        last = "P" if self.form == "svd" else "B"
        found = {n.removesuffix(f".{last}"): t.shape[1] for n, t in saved_tensors(folder).items() if n.endswith(f".{last}")}
        ranks = {site.name: found.get(site.name, 0) for site in self.sites(backbone)}
        return load_tensors(self.attach(backbone, seed=0, ranks=ranks), folder)


def pooled_layers(module: nn.Module) -> dict[str, Pooled]:
    """Name -> layer."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Pooled)}
