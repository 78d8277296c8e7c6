"""Which way a model is merged for what is asked, what each way loses, and what PEFT itself cannot merge."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from peftlab import registry
from peftlab.api._merging import Wanted, merge, merged_model, packed_model
from peftlab.backbones.resolve import source_of
from peftlab.deployment.packed import packed_layers
from peftlab.errors import OptionError
from peftlab.quantizers.groupwise import Groupwise
from tests.adapters import models
from tests.adapters.test_pooled import SIZE, on_packed, outputs


def merged(wanted: Wanted, quantizer: Any = None) -> tuple[Any, ...]:
    """QA-LoRA's adapter, whose update fits into the zero points; and its outputs before."""
    adapted = on_packed("vit", "int4")
    folder = str(models.folder("vit"))
    before = outputs("vit", adapted.module)
    quantizer = quantizer or Groupwise(type="int4", group_size=SIZE)
    preprocessing = source_of(folder).preprocessing(folder)
    return (*merge(adapted.adapter, quantizer, adapted.backbone, adapted.module.eval(), preprocessing, wanted), before)


@pytest.mark.parametrize(
    ("wanted", "way", "told"),
    [
        (Wanted(), "float", {"float", "requantized"}),
        (Wanted(packed="if exact"), "exact", {"exact"}),
        (Wanted(packed="always"), "exact", {"exact"}),
        (Wanted(requantize=True), "requantized", {"float", "requantized"}),
        (Wanted(requantize=True, packed="always"), "requantized", {"float", "requantized"}),
    ],
    ids=["float", "if-exact", "always-packed", "rounded", "rounded-packed"],
)
def test_the_way_is_the_one_asked_for(wanted: Wanted, way: str, told: set[str]) -> None:
    whole, found, losses, before = merged(wanted)
    assert found == way and losses.keys() == told
    assert bool(packed_layers(whole)) == (wanted.packed != "no")
    difference = float((outputs("vit", whole) - before).abs().max() / before.abs().max())
    assert difference < 1e-4 and all(loss < 1e-4 for loss in losses.values())  # it shifts whole groups: no code changes


def test_codes_are_kept_without_a_parameter_of_the_model_that_is_merged() -> None:
    """Biases alone are trained: every layer keeps its codes; what is done to the one model is not done to the other."""
    base = models.backbone("vit")
    Groupwise(type="int4", group_size=SIZE).convert(base)
    adapted = registry.create("adapter", "bitfit").attach(base, seed=0)
    before = outputs("vit", adapted.module)
    whole = packed_model(adapted.adapter, adapted.backbone, adapted.module)
    assert whole is not None and torch.equal(outputs("vit", whole), before)
    assert not {id(p) for p in whole.parameters()} & {id(p) for p in adapted.module.parameters()}
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert torch.equal(outputs("vit", adapted.module), before)


def test_without_a_quantizer_nothing_can_be_rounded() -> None:
    with pytest.raises(OptionError, match="no quantizer to round with"):
        merged(Wanted(requantize=True), registry.create("quantizer", "none"))


def test_what_peft_cannot_merge_is_an_error_that_says_what_to_do() -> None:
    backbone = models.backbone("gpt2")
    config = peft.PromptTuningConfig(task_type=peft.TaskType.SEQ_CLS, num_virtual_tokens=2)
    with pytest.raises(OptionError, match="PEFT cannot merge it") as caught:
        merged_model(registry.create("adapter", "lora"), backbone, peft.PeftModel(backbone.module, config))
    assert caught.value.where == "--merged" and "export the adapter itself" in (caught.value.remedy or "")


def test_float_weights_keep_no_codes() -> None:
    adapter = registry.create("adapter", {"name": "lora", "rank": 2})
    adapted = adapter.attach(models.backbone("vit"), seed=0)
    folder = str(models.folder("vit"))
    arguments = (registry.create("quantizer", "none"), adapted.backbone, adapted.module.eval())
    preprocessing = source_of(folder).preprocessing(folder)
    with pytest.raises(OptionError, match="does not fit into what 'none' stores"):
        merge(adapter, *arguments, preprocessing, Wanted(packed="always"))
    whole, way, losses = merge(adapter, *arguments, preprocessing, Wanted(packed="if exact"))
    assert way == "float" and losses.keys() == {"float"} and not packed_layers(whole)
    assert list(whole.state_dict()) == list(models.backbone("vit").module.state_dict())
