"""Runs on group-wise quantized weights: their records load, and exported whole they are plain library models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from peftlab import api
from peftlab.nn.packed import PackedLinear
from tests.api.conftest import Trained, study_of, train
from tests.api.test_exporting import close, pixels, run_logits
from tests.contracts.tiny import make

ARMS = {
    "qa-lora": {
        "adapter": {"name": "pooled", "rank": 3},
        "quantizer": {"name": "groupwise", "type": "nf4", "group_size": 8, "schedule": "linear"},
    },
    "qlora": {"adapter": "lora", "quantizer": {"name": "groupwise", "type": "int4", "group_size": 8}},
}


@pytest.fixture(scope="module", params=["timm", "vit"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp(request.param)
    backbone = make(request.param, root / "vit")
    study = study_of(backbone, ARMS, [0])
    study["train"] |= {"max_steps": 12, "learning_rate": 0.02}
    return Trained(train(study, root / "tiny", cache), backbone)


@pytest.mark.parametrize("label", ARMS)
def test_exported_whole_it_is_a_plain_model_with_the_runs_outputs(quantized: Trained, label: str, tmp_path: Path) -> None:
    answer = api.export(quantized.folder, label, tmp_path / "out", merged=True)
    assert answer["merge_difference"] <= 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    with torch.inference_mode():
        if "architecture" in config:
            import timm

            found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()(pixels())
        else:
            from transformers import AutoModelForImageClassification

            found = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()(pixel_values=pixels()).logits
    assert close(found, run_logits(quantized, label))


@pytest.mark.parametrize("label", ARMS)
def test_a_loaded_run_is_packed_and_scores_as_recorded(quantized: Trained, label: str, cache: Path) -> None:
    from peftlab.api._model_folder import load_adapted
    from tests.api.test_exporting import recorded_accuracy_is_that_of

    recorded_accuracy_is_that_of(quantized, label, cache)
    run = quantized.run(label)
    _, backbone, module = load_adapted(run.config(), run.adapter, 10)
    packed = [m for m in module.modules() if isinstance(m, PackedLinear)]
    slices = 2 * 2 if any(s.parent for s in backbone.roles.sites) else 0  # three layers in place of one fused
    assert len(packed) == sum(s.block is not None and s.parent is None for s in backbone.roles.sites) + slices


def test_the_record_says_what_the_schedule_cost(quantized: Trained) -> None:
    content = json.loads((quantized.run("qa-lora").path / "quantization_history.json").read_text())
    assert content["float_weights"]["bytes"] > 0 and content["float_weights"]["resident_until_step"] == 6
    assert [line["rho"] for line in content["history"]][-1] == 1.0
    plain = json.loads((quantized.run("qlora").path / "quantization_history.json").read_text())
    assert plain["float_weights"]["bytes"] == 0
    assert plain["history"][-1]["balance"]
