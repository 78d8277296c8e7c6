"""LoRA in the form of a singular value decomposition, whose triplets an allocator can switch off."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from peftlab.adapters._own_layers import OwnLayers
from peftlab.adapters._peft import block_structured, check_ranks, exported_config, load_peft
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.nn.fused_layers import Fused, fuse_layers
from peftlab.nn.low_rank import product_norm
from peftlab.nn.parts import Part
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.roles import Site, select
from peftlab.nn.surgery import fuse_slices
from peftlab.nn.triplets import TripletLinear


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Svd(OwnLayers):
    """h = W0 x + s P diag(lambda) Q x, with P [d_out, r], lambda [r] zero, Q [r, d_in] (Zhang et al. 2023, section 3.1).

    s = alpha/rank, by default LoRA's 2, and stays what it is whatever an allocator does (the official code: alpha/r0).
    Trainable parameters: sum over sites of r (d_in + d_out + 1). Alone it is a fixed-rank adapter; with ``allocator: adalora``
    it is AdaLoRA. Saved as an ordinary LoRA of the triplets with lambda other than zero: B = P diag(lambda), A = Q, rank r_i and
    alpha_i = s r_i for each module; modules without a triplet are left out.
    """

    name: ClassVar[str] = "svd"
    has_rank: ClassVar[bool] = True
    has_triplets: ClassVar[bool] = True
    takes_slices: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    def sites(self, backbone: Backbone) -> list[Site]:
        sites = select(backbone.roles, self.targets, where="adapter.targets")
        check_ranks(sites, dict.fromkeys((s.name for s in sites), self.rank), "adapter.rank")
        return sites

    def per_rank(self, site: Site) -> int:
        return site.d_in + site.d_out + 1

    def layer(self, base: nn.Module, site: Site, rank: int, random: torch.Generator) -> nn.Module:
        return TripletLinear(base, rank, self.scale, self.dropout, random)

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        layers = triplet_layers(adapted)
        return {
            site.name: Part(
                tensors=((layers[site.name].P, 1), (layers[site.name].singular_values, 0), (layers[site.name].Q, 0)),
                d_in=site.d_in,
                d_out=site.d_out,
                scale=self.scale,
            )
            for site in adapted.sites
        }

    def update_norms(self, adapted: Adapted) -> dict[str, float]:
        layers = triplet_layers(adapted).items()
        return {name: self.scale * product_norm(layer.P * layer.singular_values.T, layer.Q) for name, layer in layers}

    def updates(self, adapted: Adapted) -> Iterator[tuple[str, int, torch.Tensor]]:
        for name, layer in triplet_layers(adapted).items():
            down, up = layer.factors(layer.surviving())
            yield name, len(down), self.scale * (up @ down)

    def fuse(self, adapted: Adapted) -> Fused:
        return fuse_layers(adapted.module, triplet_layers(adapted).items())

    def merge(self, adapted: Adapted) -> nn.Module:
        merged = copy.deepcopy(adapted.module)
        for name, layer in list(merged.named_modules()):
            if isinstance(layer, TripletLinear):
                merged.set_submodule(name, layer.merged())
        fuse_slices(restore_conv1d(make_dense(merged)))
        return merged

    def save(self, adapted: Adapted, folder: Path) -> None:
        """An ordinary LoRA adapter in PEFT's format, of the triplets with lambda other than zero.

        Where no module has any (nothing was learnt), one triplet a module is written, whose update is zero.
        """
        folder.mkdir(parents=True, exist_ok=True)
        chosen = {name: layer.surviving() for name, layer in triplet_layers(adapted).items()}
        if not any(len(indices) for indices in chosen.values()):
            chosen = {name: torch.zeros(1, dtype=torch.long, device=indices.device) for name, indices in chosen.items()}
        sites = [site for site in adapted.sites if len(chosen[site.name])]
        prefix = "base_model.model."
        state = {prefix + n: p.detach().cpu().contiguous() for n, p in adapted.trainable().items() if adapted.is_head(n)}
        for site, layer in ((s, triplet_layers(adapted)[s.name]) for s in sites):
            down, up = layer.factors(chosen[site.name])
            state[f"{prefix}{site.name}.lora_A.weight"], state[f"{prefix}{site.name}.lora_B.weight"] = down.cpu(), up.cpu()
        state = block_structured(state, sites, {s.name: s.d_out for s in adapted.backbone.roles.sites})
        exported_config(
            sites,
            {name: len(indices) for name, indices in chosen.items()},
            dict.fromkeys(chosen, self.scale),
            adapted.module,
            lora_dropout=self.dropout,
            modules_to_save=list(adapted.backbone.heads) or None,
            base_model_name_or_path=adapted.backbone.name,
        ).save_pretrained(str(folder))
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        return load_peft(backbone.module, folder)


def triplet_layers(adapted: Adapted) -> dict[str, TripletLinear]:
    """Site name -> its layer."""
    return {site.name: adapted.module.get_submodule(site.name) for site in adapted.sites}  # pyright: ignore
