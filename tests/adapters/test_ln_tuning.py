"""LayerNorm tuning: exactly the normalisation layers train."""

from __future__ import annotations

import pytest
from torch import nn

from peftlab.adapters.ln_tuning import LnTuning
from tests.adapters import models


@pytest.mark.parametrize("family", [*models.FAMILIES, "gpt2"])
def test_exactly_the_layer_norms_and_the_head_train(family: str) -> None:
    backbone = models.backbone(family)
    norms = [name for name, module in backbone.module.named_modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * models.BLOCKS + 1
    expected = {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    adapted = LnTuning().attach(backbone, seed=0)
    assert {name for name in adapted.trainable() if not adapted.is_head(name)} == expected
    assert LnTuning().count(backbone) == 2 * models.WIDTH * len(norms)
    assert LnTuning().added(backbone) == 0


def test_batch_norms_count_as_norms() -> None:
    from peftlab.backbones.timm import TimmBackbone

    backbone = TimmBackbone.load("timm/resnet18", outputs=5, device="meta")
    sizes = [m.num_features for m in backbone.module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert LnTuning().count(backbone) == 2 * sum(sizes) == 9_600
