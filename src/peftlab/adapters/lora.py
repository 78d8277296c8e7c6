"""LoRA."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import peft
import torch
from safetensors.torch import save_file

from peftlab.adapters._fused import fused_lora
from peftlab.adapters._options import check_low_rank
from peftlab.adapters._peft import (
    PeftAdapter,
    block_structured,
    check_ranks,
    exported_config,
    site_of_layer,
    target_modules,
)
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError
from peftlab.nn.fused_layers import Fused, fuse_layers
from peftlab.nn.low_rank import LowRank
from peftlab.nn.parts import Part
from peftlab.nn.quantized import dense_weight
from peftlab.nn.roles import Site, select

_INITIALISERS = {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "pissa": "pissa", "olora": "olora"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lora(PeftAdapter):
    """h = W0 x + (alpha/r) B A x, with A [r, d_in] Kaiming-uniform and B [d_out, r] zero (Hu et al. 2021, section 4.1).

    Realised by PEFT's LoRA layers. alpha/r is 2 unless ``alpha`` is given; with ``rslora`` the scale is alpha/sqrt(r).
    Trainable parameters: sum over sites of r (d_in + d_out), plus d_out each with DoRA. PiSSA and OLoRA move part of W0 into the
    adapter, which leaves the sum unchanged up to rounding.
    """

    name: ClassVar[str] = "lora"
    methods: ClassVar[Mapping[str, str]] = {
        "QLoRA": "adapter: lora, quantizer: {name: bnb, bits: 4, double: true}",
        "DoRA": "adapter: {name: lora, dora: true}",
        "rsLoRA": "adapter: {name: lora, rslora: true}",
        "PiSSA": "adapter: {name: lora, init: pissa}",
        "OLoRA": "adapter: {name: lora, init: olora}",
    }
    has_rank: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{hu2022lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean
    and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations}, year = {2022},
  url = {https://openreview.net/forum?id=nZeVKeeFYf9}
}"""

    rank: int = 8
    alpha: float | None = None  #: absolute; default alpha_over_rank * rank
    alpha_over_rank: float = 2.0
    dropout: float = 0.0  #: on the adapter's input, in training
    targets: str | tuple[str, ...] = (
        "standard"  #: nn/roles.py: standard, extended, all-linear, feed-forward, fused, roles, regexes, blocks:8-11
    )
    init: Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora"] = "kaiming"
    dora: bool = False  #: weight-decomposed (Liu et al. 2024)
    rslora: bool = False  #: scale alpha/sqrt(r) (Kalajdzievski 2023)

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.alpha, self.alpha_over_rank, self.dropout)

    @property
    def reads_frozen(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.dora  # magnitudes of slices that are not adapted

    @property
    def unstackable(self) -> str:
        moves = self.init in ("pissa", "olora")
        return f"init: {self.init} moves a part of the shared weights into the adapter" if moves else ""

    @property
    def needs_float(self) -> str:
        if self.init in ("pissa", "olora"):
            return f"init: {self.init} moves a part of the weights into the adapter"
        return "PEFT draws init: orthogonal in the type of the stored weights" if self.init == "orthogonal" else ""

    def sites(self, backbone: Backbone) -> list[Site]:
        sites = select(backbone.roles, self.targets, where="adapter.targets")
        check_ranks(sites, dict.fromkeys((s.name for s in sites), self.rank), "adapter.rank")
        return sites

    def alpha_of(self, rank: int) -> float:
        """alpha for a module of this rank: a given alpha belongs to ``self.rank``, and its scale is kept.

        The scale is alpha/r, with rsLoRA alpha/sqrt(r).
        """
        share = rank / self.rank
        return (self.alpha if self.alpha is not None else self.alpha_over_rank * self.rank) * (
            math.sqrt(share) if self.rslora else share
        )

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        ranks = ranks if ranks is not None else dict.fromkeys((s.name for s in sites), self.rank)
        magnitudes = sum(s.d_out for s in sites if ranks[s.name]) if self.dora else 0
        return sum(ranks[s.name] * (s.d_in + s.d_out) for s in sites) + magnitudes

    def config(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None) -> peft.LoraConfig:
        ranks = ranks or {}
        pattern = {s.name: ranks.get(s.name, self.rank) for s in sites}
        check_ranks(sites, pattern, "allocator")
        return peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha_of(self.rank),  # pyright: ignore
            rank_pattern={f"^{re.escape(n)}$": r for n, r in pattern.items() if r != self.rank},
            alpha_pattern={f"^{re.escape(n)}$": self.alpha_of(r) for n, r in pattern.items() if r != self.rank},  # pyright: ignore
            lora_dropout=self.dropout,
            target_modules=target_modules([s.name for s in sites], backbone.module),
            modules_to_save=self.modules_to_save(backbone),
            init_lora_weights=_INITIALISERS[self._init_on(backbone)],  # pyright: ignore
            use_dora=self.dora,
            use_rslora=self.rslora,
        )

    def _init_on(self, backbone: Backbone) -> str:
        """Where a run is planned there are shapes and no weights, which no singular value or QR decomposition can be had of."""
        planned = any(parameter.is_meta for parameter in backbone.module.parameters())
        return "kaiming" if planned and self.init in ("pissa", "olora") else self.init

    @property
    def resizable(self) -> bool:
        return not self.dora  # DoRA multiplies the factors out, with no layer between them

    @property
    def initialisable(self) -> bool:
        return self.resizable and self.init not in ("pissa", "olora")  # these took their B A out of W0

    def low_rank(self, adapted: Adapted) -> dict[str, LowRank]:
        return {
            name: LowRank(layer.lora_A["default"], layer.lora_B["default"], float(layer.scaling["default"]))  # pyright: ignore
            for name, layer in site_of_layer(adapted).items()
        }

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        """With what PiSSA and OLoRA took out of W0, which is in B A and no update."""
        layers = site_of_layer(adapted)
        taken = {n: (layer.initial_A, layer.initial_B) for n, layer in layers.items() if hasattr(layer, "initial_A")}
        parts = PeftAdapter.parts(self, adapted)
        return {name: dataclasses.replace(part, taken_out=taken.get(name)) for name, part in parts.items()}  # pyright: ignore

    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        """As the contract says.

        Raises:
            OptionError: an odd rank where A and B begin as halves of one orthogonal matrix.
        """
        odd = {name: rank for name, rank in (ranks or {"every layer": self.rank}).items() if rank % 2}
        if self.init == "orthogonal" and odd:
            name, rank = next(iter(odd.items()))
            what = f"orthogonal needs even ranks, and {name} has {rank}"
            raise OptionError(what, where="adapter.init", remedy="use another init, or (without an allocator) an even rank")
        adapted = PeftAdapter.attach(self, backbone, seed=seed, ranks=ranks)
        if self.init in ("pissa", "olora"):  # W0 gave up its principal part: the export and all measures of the update need it
            for layer in site_of_layer(adapted).values():
                layer.register_buffer("initial_A", layer.lora_A["default"].weight.detach().clone(), persistent=False)  # pyright: ignore
                layer.register_buffer("initial_B", layer.lora_B["default"].weight.detach().clone(), persistent=False)  # pyright: ignore
        return adapted

    def fuse(self, adapted: Adapted) -> Fused:
        return fuse_layers(adapted.module, site_of_layer(adapted).items(), fused_lora)

    def save(self, adapted: Adapted, folder: Path) -> None:
        """PEFT format on the backbone's own layer names: fused layers get one block-structured adapter, PiSSA and OLoRA become
        an ordinary LoRA of twice the rank, s (B A - B0 A0)."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            k: v.detach().cpu().contiguous()
            for k, v in peft.get_peft_model_state_dict(adapted.module, save_embedding_layers=False).items()
        }
        layers = site_of_layer(adapted)
        scales = {n: float(layer.scaling["default"]) for n, layer in layers.items()}  # pyright: ignore
        state = _subtract_initial(state, layers)
        ranks = {n: state[f"base_model.model.{n}.lora_A.weight"].shape[0] for n in layers}
        widths = {s.name: s.d_out for s in adapted.backbone.roles.sites}
        if self.dora:
            state = _fuse_magnitudes(state, adapted)
        state = block_structured(state, adapted.sites, widths)
        config = exported_config(
            adapted.sites,
            ranks,
            scales,
            adapted.module.get_base_model(),  # pyright: ignore
            lora_dropout=self.dropout,
            modules_to_save=self.modules_to_save(adapted.backbone),
            use_dora=self.dora,
            base_model_name_or_path=adapted.backbone.name,
        )
        config.save_pretrained(str(folder))
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _subtract_initial(state: dict[str, torch.Tensor], layers: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """B A - B0 A0 = [B, -B0] [A; A0], for initialisers that took B0 A0 out of the base."""
    state = dict(state)
    for name, layer in layers.items():
        if not hasattr(layer, "initial_A"):
            continue
        down, up = f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight"
        state[down] = torch.cat([state[down], layer.initial_A.cpu()])  # pyright: ignore
        state[up] = torch.cat([state[up], -layer.initial_B.cpu()], dim=1)  # pyright: ignore
    return state


def _fuse_magnitudes(state: dict[str, torch.Tensor], adapted: Adapted) -> dict[str, torch.Tensor]:
    """DoRA's magnitude of a fused layer: learnt values on adapted rows, the frozen rows' own norms elsewhere."""
    state = dict(state)
    for parent in dict.fromkeys(s.parent for s in adapted.sites if s.parent):
        sliced = adapted.module.get_submodule(f"base_model.model.{parent}")
        parts = []
        for part in "qkv":
            key = f"base_model.model.{parent}.{part}.lora_magnitude_vector"
            layer = sliced.get_submodule(part)
            parts.append(state.pop(key) if key in state else dense_weight(layer).norm(dim=1).cpu())
        state[f"base_model.model.{parent}.lora_magnitude_vector"] = torch.cat(parts)
    return state
