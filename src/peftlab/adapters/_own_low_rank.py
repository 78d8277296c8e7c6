"""What adapters share whose layers are ours and whose updates are ordinary low-rank ones: merged, saved and loaded as LoRA."""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors.torch import save_file
from torch import nn

from peftlab.adapters._own_layers import OwnLayers
from peftlab.adapters._peft import block_structured, check_ranks, exported_config, load_peft
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.nn.fused_layers import Fused, fuse_layers
from peftlab.nn.low_rank import product_norm
from peftlab.nn.low_rank_layer import LowRankLinear
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.roles import Site, select
from peftlab.nn.surgery import fuse_slices


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnLowRank(OwnLayers):
    """Base: a subclass says what a rank costs (``cost``) and makes the layer (``layer``); all else follows from its factors.

    Saved as an ordinary LoRA with the layer's A and B, rank r_i and alpha_i = s r_i for each module, which plain PEFT loads;
    modules without a direction are left out.
    """

    has_rank: ClassVar[bool] = True
    takes_slices: ClassVar[bool] = True

    @abstractmethod
    def layer(self, base: nn.Module, site: Site, rank: int, random: torch.Generator) -> LowRankLinear:
        """The layer that takes the place of ``base``; initial values from ``random`` alone."""

    def sites(self, backbone: Backbone) -> list[Site]:
        sites = select(backbone.roles, self.targets, where="adapter.targets")
        check_ranks(sites, dict.fromkeys((s.name for s in sites), self.rank), "adapter.rank")
        return sites

    def update_norms(self, adapted: Adapted) -> dict[str, float]:
        exported = {name: layer.exported() for name, layer in low_rank_layers(adapted).items()}
        return {name: self.scale * product_norm(up, down) for name, (down, up) in exported.items()}

    def updates(self, adapted: Adapted) -> Iterator[tuple[str, int, torch.Tensor]]:
        for name, layer in low_rank_layers(adapted).items():
            down, up = layer.exported()
            yield name, len(down), self.scale * (up @ down)

    def fuse(self, adapted: Adapted) -> Fused:
        return fuse_layers(adapted.module, low_rank_layers(adapted).items())

    def merge(self, adapted: Adapted) -> nn.Module:
        merged = copy.deepcopy(adapted.module)
        for name, layer in list(merged.named_modules()):
            if isinstance(layer, LowRankLinear):
                merged.set_submodule(name, layer.merged())
        fuse_slices(restore_conv1d(make_dense(merged)))
        return merged

    def save(self, adapted: Adapted, folder: Path) -> None:
        """An ordinary LoRA adapter in PEFT's format.

        Where no module has a direction (nothing was learnt), one of zeros a module is written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pairs = {name: layer.exported() for name, layer in low_rank_layers(adapted).items()}
        if not any(len(down) for down, _ in pairs.values()):
            pairs = {n: (a.new_zeros(1, a.shape[1]), b.new_zeros(b.shape[0], 1)) for n, (a, b) in pairs.items()}
        sites = [site for site in adapted.sites if len(pairs[site.name][0])]
        prefix = "base_model.model."
        state = {prefix + n: t.detach().cpu().contiguous() for n, t in adapted.learnt().items() if adapted.is_head(n)}
        for site in sites:
            down, up = pairs[site.name]
            state[f"{prefix}{site.name}.lora_A.weight"], state[f"{prefix}{site.name}.lora_B.weight"] = down.cpu(), up.cpu()
        state = block_structured(state, sites, {s.name: s.d_out for s in adapted.backbone.roles.sites})
        exported_config(
            sites,
            {name: len(down) for name, (down, _) in pairs.items()},
            dict.fromkeys(pairs, self.scale),
            adapted.module,
            lora_dropout=self.dropout,
            modules_to_save=list(adapted.backbone.heads) or None,
            base_model_name_or_path=adapted.backbone.name,
        ).save_pretrained(str(folder))
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        return load_peft(backbone.module, folder)


def low_rank_layers(adapted: Adapted) -> dict[str, LowRankLinear]:
    """Site name -> its layer."""
    return {site.name: cast(LowRankLinear, adapted.module.get_submodule(site.name)) for site in adapted.sites}
