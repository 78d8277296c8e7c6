"""What the trained updates take back of the quantization error, against singular values and the merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.nn.quantized import dense_weight, make_dense
from peftlab.nn.surgery import slice_fused
from peftlab.training.assemble import Ingredients
from peftlab.training.cancellation import cancellation
from peftlab.training.loop import Trainer
from tests.training.conftest import Lab

NF4 = {"name": "bnb", "bits": 4}
INT4 = {"name": "groupwise", "type": "int4", "group_size": 8}
TASK = {"kind": "image-classification", "data": "digits"}
ARMS = {
    "lora on nf4": ({"name": "lora", "rank": 3}, NF4),
    "lora on int4": ({"name": "lora", "rank": 3, "alpha": 5}, INT4),
    "svd on nf4": ({"name": "svd", "rank": 2}, NF4),
    "pooled on int4": ({"name": "pooled", "rank": 2}, INT4),
    "pooled svd on int4": ({"name": "pooled", "rank": 2, "form": "svd"}, INT4),
}


def plain(lab: Lab) -> Any:
    parts: dict[str, Any] = {"adapter": {"name": "linear-probe"}, "allocator": None, "quantizer": {"name": "none"}}
    return Ingredients.of(backbone=lab.backbone, task=TASK, **parts).load_backbone(10, 0)


def errors(lab: Lab, trainer: Trainer) -> dict[str, torch.Tensor]:
    """Site -> W - Q(W), from a merge without an update and the backbone."""
    reference = plain(lab)
    slice_fused(reference.module, trainer.adapted.sites)
    with torch.no_grad():
        return {
            site.name: dense_weight(reference.module.get_submodule(site.name)) - dense_weight(base(trainer, site.name))
            for site in trainer.adapted.sites
        }


def base(trainer: Trainer, name: str) -> Any:
    modules = dict(trainer.adapted.module.named_modules())
    return next(m for n, m in modules.items() if n.endswith(f"{name}.base_layer"))


@pytest.mark.parametrize("arm", ARMS)
def test_an_update_on_the_bound_cancels_the_bound(lab: Lab, tmp_path: Path, arm: str) -> None:
    """The best update of its rank, written down from numpy-style singular values, then measured."""
    adapter, quantizer = ARMS[arm]
    trainer = lab.trainer(tmp_path, adapter, quantizer=quantizer)
    group, rank = trainer.adapted.adapter.shared_inputs or 1, adapter["rank"]
    expected, whole = 0.0, 0.0
    for name, error in errors(lab, trainer).items():
        u, s, v = torch.linalg.svd(error.unflatten(1, (-1, group)).mean(-1).double(), full_matrices=False)
        expected, whole = expected + group * float((s[:rank] ** 2).sum()), whole + float(error.double().square().sum())
        layer: Any = next(m for n, m in trainer.adapted.module.named_modules() if n.endswith(name))
        put(layer, (u[:, :rank] * s[:rank]).float(), v[:rank].float())
    found = cancellation(trainer.adapted, plain(lab))
    assert found["bound"] == pytest.approx(expected / whole, rel=1e-4)
    assert found["cancelled"] == pytest.approx(found["bound"], rel=1e-3)
    assert found["aligned"] == pytest.approx(found["bound"], rel=1e-3)
    assert all(site["rank"] == rank for site in found["sites"].values())


def put(layer: Any, b: torch.Tensor, a: torch.Tensor) -> None:
    """Make the layer's update b a."""
    with torch.no_grad():
        if hasattr(layer, "lora_A"):
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b / layer.scaling["default"])
        elif hasattr(layer, "Q"):
            layer.Q.copy_(a)
            layer.P.copy_(b / layer.scale)
            layer.singular_values.fill_(1)
        else:
            layer.A.copy_(a)
            layer.B.copy_(b / layer.scale)


@pytest.mark.parametrize("arm", ARMS)
def test_after_training_it_is_what_the_merged_weights_say(lab: Lab, tmp_path: Path, arm: str) -> None:
    adapter, quantizer = ARMS[arm]
    trainer = lab.trainer(tmp_path, adapter, quantizer=quantizer, train={"max_steps": 6, "learning_rate": 3e-2})
    trainer.fit()
    before = errors(lab, trainer)
    found = cancellation(trainer.adapted, plain(lab))
    merged, reference = make_dense(trainer.adapted.adapter.merge(trainer.adapted)), plain(lab).module
    left, whole = 0.0, sum(float(e.double().square().sum()) for e in before.values())
    for module in (merged, reference):
        slice_fused(module, trainer.adapted.sites)
    for site in trainer.adapted.sites:
        gap = dense_weight(reference.get_submodule(site.name)) - dense_weight(merged.get_submodule(site.name))
        left += float(gap.double().square().sum())
    assert found["cancelled"] == pytest.approx(1 - left / whole, abs=1e-4)
    assert found["cancelled"] <= found["aligned"] + 1e-9
    assert all(0 < site["aligned"] <= site["bound"] * (1 + 1e-6) for site in found["sites"].values())


def test_float_weights_have_nothing_to_cancel(lab: Lab, tmp_path: Path) -> None:
    assert cancellation(lab.trainer(tmp_path).adapted, plain(lab)) == {"sites": {}}
