"""Which arms may be quantized when, what the loop proves of quantized weights, and runs without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import BaseChanged, OptionError, Stopped
from peftlab.nn.quantized import quantized_layers
from peftlab.training.assemble import Ingredients
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.proof import assert_frozen, frozen_hash
from peftlab.training.quantization import examine, first_batches
from tests.training.conftest import Lab
from tests.training.test_resident import in_a_process

NF4 = {"name": "bnb", "bits": 4, "double": True}


@pytest.mark.parametrize(
    ("changed", "where", "why"),
    [
        ({"adapter": {"name": "full"}}, "quantizer", "trains the weight matrices"),
        ({"adapter": {"name": "lora", "init": "pissa"}}, "quantizer", "pissa"),
        ({"adapter": {"name": "peft", "type": "LOHA"}}, "quantizer", "LOHA"),
        ({"adapter": {"name": "bottleneck"}, "quantize": "after"}, "quantize", "cannot be merged"),
        ({"quantizer": {"name": "none"}, "quantize": "after"}, "quantize", "nothing to quantize with"),
        ({"quantize": "later"}, "quantize", "no time"),
    ],
)
def test_refused_when_planned(tiny_backbone: str, changed: dict[str, Any], where: str, why: str) -> None:
    parts: dict[str, Any] = {"adapter": {"name": "lora"}, "allocator": None, "quantizer": NF4, **changed}
    with pytest.raises(OptionError, match=why) as caught:
        Ingredients.of(backbone=tiny_backbone, task={"kind": "image-classification", "data": "digits"}, where="arms.a", **parts)
    assert caught.value.where == f"arms.a.{where}"
    assert caught.value.remedy


def test_full_may_be_quantized_after_training(tiny_backbone: str) -> None:
    task = {"kind": "image-classification", "data": "digits"}
    parts: dict[str, Any] = {"adapter": {"name": "full"}, "allocator": None, "quantizer": NF4, "quantize": "after"}
    assert not Ingredients.of(backbone=tiny_backbone, task=task, **parts).trains_quantized


@pytest.mark.parametrize("quantizer", [NF4, {"name": "bnb", "bits": 8}], ids=["nf4-double", "int8"])
def test_every_stored_tensor_is_among_what_must_not_change(lab: Lab, tmp_path: Path, quantizer: dict[str, Any]) -> None:
    module = lab.trainer(tmp_path, quantizer=quantizer).adapted.module
    before = frozen_hash(module)
    for tensor in next(iter(quantized_layers(module).values())).stored():
        kept = tensor.clone()
        tensor.add_(1)
        with pytest.raises(BaseChanged):
            assert_frozen(module, before)
        tensor.copy_(kept)
    assert_frozen(module, before)


def test_resumed_on_a_quantized_base_equals_the_uninterrupted_run(lab: Lab, tmp_path: Path) -> None:
    def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in trainer.adapted.trainable().items()}

    whole = lab.trainer(tmp_path / "whole", quantizer=NF4)
    whole.fit()
    stopping = lab.trainer(tmp_path / "parts", quantizer=NF4, cadence=Cadence(steps=2))
    stopping.should_stop = lambda: stopping.step >= 5
    with pytest.raises(Stopped):
        stopping.fit()
    resumed = lab.trainer(tmp_path / "parts", quantizer=NF4)
    assert resumed.fit().resumed == 1
    expected = weights(whole)
    assert all(torch.equal(p, expected[name]) for name, p in weights(resumed).items())


def test_no_step_is_a_run_that_is_evaluated_as_it_starts(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe", train={"max_steps": 0})
    start = {name: p.detach().clone() for name, p in trainer.adapted.trainable().items()}
    fitted = trainer.fit()
    assert fitted.steps == 0 and fitted.selected.metrics["accuracy"] >= 0
    assert all(torch.equal(p, start[name]) for name, p in trainer.adapted.trainable().items())


def test_findings_are_what_two_models_side_by_side_give(lab: Lab, tmp_path: Path) -> None:
    """Written out with both models in memory, which the function avoids."""
    trainer = lab.trainer(tmp_path, "linear-probe")
    ingredients = Ingredients.of(
        backbone=lab.backbone,
        task={"kind": "image-classification", "data": "digits"},
        adapter={"name": "linear-probe"},
        allocator=None,
        quantizer=NF4,
    )
    batches = first_batches(trainer.task, trainer.splits.train, "cpu")
    plain, rounded = (ingredients.load_backbone(10, 0) for _ in range(2))
    found = examine(ingredients.load_backbone(10, 0), ingredients.quantizer, ingredients.convert, trainer.task, batches)
    ingredients.convert(rounded)
    logits: list[list[torch.Tensor]] = [[], []]
    gradients: list[list[torch.Tensor]] = [[], []]
    for batch in batches:
        for i, backbone in enumerate((plain, rounded)):
            inputs = dict(trainer.task.inputs(batch))
            inputs["pixel_values"] = inputs["pixel_values"].clone().requires_grad_()
            outputs = backbone.outputs(backbone.module.eval(), inputs)
            trainer.task.loss(outputs, batch).backward()
            logits[i].append(outputs.detach().flatten())
            gradients[i].append(inputs["pixel_values"].grad.flatten())  # pyright: ignore
    assert all(value > 50 for value in found["process_mb"].values())  # a process that has loaded torch
    (y, y_q), (g, g_q) = ([torch.cat(parts) for parts in both] for both in (logits, gradients))
    assert found["outputs"]["relative_error"] == pytest.approx(float((y_q - y).norm() / y.norm()), rel=1e-4)
    assert found["gradient"]["relative_error"] == pytest.approx(float((g_q - g).norm() / g.norm()), rel=1e-4)
    assert found["gradient"]["cosine"] == pytest.approx(float(torch.cosine_similarity(g, g_q, dim=0)), rel=1e-4)
    sizes = [layer["float_bytes"] for layer in found["layers"].values()]
    assert found["model"]["float_bytes"] - found["model"]["stored_bytes"] == sum(sizes) - found["converted"]["stored_bytes"]


def test_memory_in_use_is_that_of_the_process() -> None:
    """What is allocated and touched counts, and what is freed no more: in one large block and in many small ones."""
    before, during, after = in_a_process(
        "import json, torch\n"
        "from peftlab.training.quantization import in_use_mb\n"
        "cpu = torch.device('cpu')\n"
        "torch.ones(1_000)\n"  # code and tables come in when they are used first
        "found = [in_use_mb(cpu)]\n"
        "held = [torch.ones(25_000_000), *(torch.ones(1_000) for _ in range(25_000))]\n"  # 100 MB each
        "found.append(in_use_mb(cpu))\n"
        "held.clear()\n"
        "print(json.dumps([*found, in_use_mb(cpu)]))"
    )
    assert during - before > 180
    assert after - before < 60
