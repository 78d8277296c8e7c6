"""LoRA: scales, ranks per site, exactly the layers asked for, and what is exported."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.beft.layer import BeftLayer
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.ia3.layer import IA3Layer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from peftlab import registry
from peftlab.adapters._peft import site_of_layer, target_modules
from peftlab.adapters.lora import Lora
from peftlab.adapters.peft_any import PeftTuner
from peftlab.backbones.contract import Backbone
from peftlab.errors import DidNothing, OptionError, RecordError
from tests.contracts.conftest import perturb
from tests.contracts.tiny import CLASSES, make


def backbone(blocks: int = 2, seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
        module = ViTForImageClassification(ViTConfig(num_hidden_layers=blocks, num_labels=CLASSES, **sizes))
    return _wrap(module)


def _wrap(module: nn.Module) -> Backbone:
    return Backbone(
        name="tiny",
        family="vit",
        library="transformers",
        module=module,
        head="classifier",
        outputs=lambda m, inputs: m(**inputs).logits,
        save=lambda m, folder: m.save_pretrained(folder),  # pyright: ignore
    )


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return module.eval()(pixel_values=images).logits


def scales(adapted: Any) -> dict[str, float]:
    return {name: layer.scaling["default"] for name, layer in site_of_layer(adapted).items()}  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"rank": 4}, 2.0),
        ({"rank": 4, "alpha": 16.0}, 4.0),
        ({"rank": 4, "alpha_over_rank": 0.5}, 0.5),
        ({"rank": 4, "rslora": True}, 8.0 / 2.0),
        ({"rank": 4, "alpha": 16.0, "rslora": True}, 16.0 / 2.0),
    ],
)
def test_the_scale_is_alpha_over_r_or_its_root_at_every_rank(options: dict[str, Any], scale: float) -> None:
    assert set(scales(Lora(**options).attach(backbone(), seed=0)).values()) == {scale}
    lora = Lora(**options)
    ranks = {site.name: i + 1 for i, site in enumerate(lora.sites(backbone()))}
    found = scales(lora.attach(backbone(), seed=0, ranks=ranks))
    assert found == pytest.approx(dict.fromkeys(ranks, scale))
    assert math.isclose(lora.alpha_of(4), lora.alpha if lora.alpha is not None else 4 * lora.alpha_over_rank)


def test_the_update_is_scale_b_a() -> None:
    adapted = Lora(rank=2, alpha=3.0, targets="all-linear").attach(backbone(), seed=0)
    perturb(adapted)
    merged = Lora(rank=2, alpha=3.0, targets="all-linear").merge(adapted)
    for site in adapted.sites:
        layer: Any = adapted.module.get_submodule(f"base_model.model.{site.name}")
        delta = merged.get_submodule(site.name).weight - layer.base_layer.weight  # pyright: ignore
        b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        assert (b.shape, a.shape) == ((site.d_out, 2), (2, site.d_in))
        torch.testing.assert_close(delta, 1.5 * b @ a, atol=1e-6, rtol=1e-4)


def test_ranks_per_site_with_zeros_reach_peft_and_the_export(tmp_path: Path) -> None:
    lora = Lora(rank=4)
    sites = lora.sites(backbone())
    ranks = dict(zip((s.name for s in sites), (0, 1, 4, 7), strict=True))
    adapted = lora.attach(backbone(), seed=0, ranks=ranks)
    assert {n: layer.lora_A["default"].weight.shape[0] for n, layer in site_of_layer(adapted).items()} == {  # pyright: ignore
        n: r for n, r in ranks.items() if r
    }
    outside = sum(p.numel() for n, p in adapted.trainable().items() if not adapted.is_head(n))
    assert outside == lora.count(backbone(), sites, ranks) == 16 * 12
    perturb(adapted)
    lora.save(adapted, tmp_path)
    loaded = peft.PeftModel.from_pretrained(backbone().module, str(tmp_path))  # pyright: ignore
    torch.testing.assert_close(logits(loaded), logits(adapted.module))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (lambda names: dict.fromkeys(names, 0), "every rank is 0"),
        (lambda names: dict.fromkeys(names[1:], 2), "not given for exactly"),
        (lambda names: {**dict.fromkeys(names, 2), "nothing": 2}, "not given for exactly"),
        (lambda names: dict.fromkeys(names, 9), "above min(d_in, d_out) = 8"),
    ],
)
def test_ranks_that_do_not_fit(ranks: Any, message: str) -> None:
    lora = Lora(rank=2)
    names = [site.name for site in lora.sites(backbone())]
    with pytest.raises(OptionError) as caught:
        lora.attach(backbone(), seed=0, ranks=ranks(names))
    assert message in str(caught.value)


class Astray(Lora):
    """Asks PEFT for other layers than its sites."""

    def config(self, backbone: Backbone, sites: Any, ranks: Any) -> peft.LoraConfig:
        config = Lora.config(self, backbone, sites, ranks)
        config.target_modules = self.instead  # pyright: ignore
        return config


@pytest.mark.parametrize(
    ("instead", "odd"),
    [
        (["layers.0.attention.q_proj"], "0.attention.v_proj, 1.attention.q_proj, 1.attention.v_proj"),
        (["k_proj"], "0.attention.k_proj, 0.attention.q_proj, 0.attention.v_proj, 1.attention.k_proj"),
        (["q_proj", "v_proj", "fc1"], "0.mlp.fc1, 1.mlp.fc1"),
    ],
    ids=["fewer", "others", "more"],
)
def test_layers_that_peft_adapts_besides_or_leaves_out_are_noticed(instead: list[str], odd: str) -> None:
    """Up to four of them are named."""
    adapter = Astray(rank=2)
    object.__setattr__(adapter, "instead", instead)
    with pytest.raises(DidNothing, match="did not adapt exactly the layers") as caught:
        adapter.attach(backbone(), seed=0)
    assert caught.value.where == ", ".join(f"vit.layers.{name}" for name in odd.split(", "))


def test_the_rank_without_options_is_pefts_own() -> None:
    """Studies that leave it out were run with it."""
    assert Lora().rank == peft.LoraConfig().r == registry.create("adapter", "svd").rank == 8


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 9}, {"dropout": 1.0}, {"alpha": -1.0}, {"alpha_over_rank": 0.0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Lora(**options).sites(backbone())


def test_block_1_is_not_block_11() -> None:
    """PEFT matches the ends of names and rank patterns as regular expressions."""
    lora = Lora(rank=2, targets=("q", "blocks:1"))
    adapted = lora.attach(backbone(12), seed=0)
    assert list(site_of_layer(adapted)) == ["vit.layers.1.attention.q_proj"]
    adapters = [n for n, _ in adapted.module.named_modules() if n.endswith("lora_A")]
    assert adapters == ["base_model.model.vit.layers.1.attention.q_proj.lora_A"]

    lora = Lora(rank=2, targets="q")
    names = [site.name for site in lora.sites(backbone(12))]
    ranks = {name: 5 if ".1." in name else 3 if ".11." in name else 2 for name in names}
    found = {
        n: layer.lora_A["default"].weight.shape[0]
        for n, layer in site_of_layer(lora.attach(backbone(12), seed=0, ranks=ranks)).items()
    }  # pyright: ignore
    assert found == ranks


class Twice(nn.Module):
    """``layers.0.self_attn.q_proj`` is also the end of ``side.layers.0.self_attn.q_proj``."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(4, 4)})})
        self.layers = nn.ModuleList([block])
        self.side = nn.ModuleDict({"layers": nn.ModuleList([copy.deepcopy(block)])})
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers[0]["self_attn"]["q_proj"](x))  # pyright: ignore


def test_a_layer_whose_name_ends_like_anothers_is_adapted_alone() -> None:
    assert isinstance(target_modules(["layers.0.self_attn.q_proj"], Twice()), str)
    assert target_modules(["side.layers.0.self_attn.q_proj"], Twice()) == ["side.layers.0.self_attn.q_proj"]
    adapted = Lora(rank=2, targets=(r"^layers\.0",)).attach(_wrap(Twice()), seed=0)
    assert list(site_of_layer(adapted)) == ["layers.0.self_attn.q_proj"]
    assert len([n for n, _ in adapted.module.named_modules() if n.endswith("lora_A")]) == 1


def test_slices_of_unequal_rank_are_exported_as_one_block_structured_adapter(tmp_path: Path) -> None:
    from peftlab.backbones.timm import TimmBackbone

    folder = make("timm", tmp_path / "model")
    for rslora in (False, True):
        lora = Lora(rank=4, rslora=rslora)
        loaded = TimmBackbone.load(str(folder), outputs=CLASSES)
        names = [site.name for site in lora.sites(loaded)]
        ranks = dict(zip(names, (3, 5, 0, 2), strict=True))
        adapted = lora.attach(loaded, seed=0, ranks=ranks)
        perturb(adapted)
        lora.save(adapted, tmp_path / "adapter")
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert sorted(config["target_modules"]) == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
        assert (config["r"], list(config["rank_pattern"].values())) == (8, [2])
        fresh = TimmBackbone.load(str(folder), outputs=CLASSES, seed=5)
        plain = peft.PeftModel.from_pretrained(fresh.module, str(tmp_path / "adapter")).eval()  # pyright: ignore
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(plain(images), adapted.module.eval()(images))


def test_what_was_saved_for_another_backbone_is_refused(tmp_path: Path) -> None:
    lora = Lora(rank=2)
    lora.save(lora.attach(backbone(3), seed=0), tmp_path)
    with pytest.raises(RecordError):
        lora.load(backbone(2), tmp_path)
    config = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace(":", "", 1))
    with pytest.raises(RecordError, match=r"no readable adapter: line 2, column \d+: a colon is missing"):
        lora.load(backbone(3), tmp_path)
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(RecordError, match=r"no readable adapter: .*adapter_model\.safetensors"):
        lora.load(backbone(3), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x00")
    with pytest.raises(RecordError, match="no readable adapter"):
        lora.load(backbone(3), tmp_path)
    with pytest.raises(RecordError, match="no readable adapter"):
        lora.load(backbone(3), tmp_path / "nowhere")


def test_a_tensor_that_nothing_takes_or_that_is_not_there_is_named(tmp_path: Path) -> None:
    """PEFT goes on over both; one odd tensor is enough."""
    lora, weights = Lora(rank=2), tmp_path / "adapter_model.safetensors"
    lora.save(lora.attach(backbone(), seed=0), tmp_path)
    tensors = load_file(weights)
    first, head = (next(name for name in sorted(tensors) if part in name) for part in ("lora_A", "classifier"))
    save_file({**tensors, "base_model.model.other.lora_A.weight": torch.zeros(1)}, weights)
    with pytest.raises(RecordError, match=r"the saved adapter does not fit: base_model\.model\.other\.lora_A\.weight"):
        lora.load(backbone(), tmp_path)
    for missing in (first, head):
        save_file({name: tensor for name, tensor in tensors.items() if name != missing}, weights)
        with pytest.raises(RecordError, match=f"the saved adapter does not fit: {re.escape(missing)}"):
            lora.load(backbone(), tmp_path)


# --- any other PEFT tuner --------------------------------------------------------------------------------------------------


def test_vera_and_ia3_have_the_counts_of_their_papers() -> None:
    """VeRA trains r + d_out per layer (Kopiczko et al. 2024); IA3 d_out, or d_in before the second feed-forward layer (Liu et al.
    2022)."""
    vera = PeftTuner(type="VERA", targets="standard", config_options={"r": 4})
    assert vera.count(backbone(), vera.sites(backbone())) == 4 * (4 + 8)
    ia3 = PeftTuner(type="IA3", targets=("k", "v", "down"))
    assert ia3.count(backbone(), ia3.sites(backbone())) == 2 * (8 + 8 + 16)


@pytest.mark.parametrize(("tuner", "layer"), [("IA3", IA3Layer), ("BOFT", BOFTLayer), ("BEFT", BeftLayer), ("HRA", None)])
def test_scales_and_biases_that_peft_keeps_as_matrices_are_declared(tuner: str, layer: Any) -> None:
    declared = PeftTuner(type=tuner).vectors
    assert declared == PeftTuner(type=tuner.lower()).vectors
    assert declared <= set(layer.adapter_layer_names) and len(declared) == 1 if layer else not declared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "VEERA"}, "Did you mean 'VERA'"),
        ({"type": "ADALORA", "config_options": {"total_step": 9}}, "would act as LoRA"),
        ({"type": "LN_TUNING"}, "whatever layers it is given"),
        ({"type": "VERA", "config_options": {"rr": 3}}, "has no option 'rr'"),
        ({"type": "VERA", "config_options": {"d_initial": "x"}}, "does not work on this backbone"),
        ({"type": "LOHA", "config_options": {"r": -1}}, "does not work on this backbone"),
    ],
)
def test_tuners_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        PeftTuner(**options).attach(backbone(), seed=0)
    assert message in str(caught.value)


def test_tuners_that_would_not_be_exportable_on_slices_are_refused(tmp_path: Path) -> None:
    from peftlab.backbones.timm import TimmBackbone

    loaded = TimmBackbone.load(str(make("timm", tmp_path)), outputs=CLASSES)
    with pytest.raises(OptionError, match="targets: fused"):
        PeftTuner(type="VERA").sites(loaded)


@pytest.mark.parametrize("given", [False, True], ids=["its own", "an allocator's"])
def test_an_orthogonal_start_of_an_odd_rank_is_refused(given: bool) -> None:
    """PEFT takes A and B from two halves of one matrix, and ends in a ValueError."""
    adapter, base = Lora(rank=4 if given else 3, init="orthogonal"), backbone()
    ranks = {site.name: 2 + 3 * (i == 1) for i, site in enumerate(adapter.sites(base))} if given else None
    with pytest.raises(OptionError, match="even ranks") as raised:
        adapter.attach(base, seed=0, ranks=ranks)
    assert raised.value.where == "adapter.init"
