"""Runs on bitsandbytes weights, and runs quantized after training, from training to the exported model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftlab import api
from peftlab.api._model_folder import Exported, load_adapted, load_deployed, load_forward
from peftlab.backbones.resolve import source_of
from peftlab.errors import OptionError
from peftlab.nn.quantized import quantized_layers
from peftlab.registry import create
from tests.api.conftest import Trained, study_of, train
from tests.api.test_exporting import close, pixels
from tests.contracts.tiny import make

QUANTIZER = {"name": "bnb", "bits": 4, "double": True}
ARMS: dict[str, Any] = {
    "float": {"adapter": "lora"},
    "qlora": {"adapter": "lora", "quantizer": QUANTIZER},
    "int8": {"adapter": "svd", "quantizer": {"name": "bnb", "bits": 8}},
    "after": {"adapter": "lora", "quantizer": QUANTIZER, "quantize": "after"},
    "zero": {"adapter": "linear-probe", "quantizer": QUANTIZER, "max_steps": 0},
    "zero-groups": {"adapter": "linear-probe", "quantizer": {"name": "groupwise", "group_size": 8}, "max_steps": 0},
}


@pytest.fixture(scope="module", params=["timm", pytest.param("vit", marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp(request.param)
    study = study_of(make(request.param, root / "vit"), ARMS, [0])
    study["train"] |= {"max_steps": 24, "learning_rate": 0.02}
    return Trained(train(study, root / "tiny", cache), root / "vit")


def analysis(runs: Trained, label: str) -> dict[str, Any]:
    return json.loads((runs.run(label).path / "quantization_analysis.json").read_text())


def accuracy(runs: Trained, label: str, cache: Path) -> float:
    """Of the model that a record gives back, on its validation data."""
    config = runs.run(label).config()
    backbone, module = load_deployed(config, runs.run(label).adapter, 10)
    task = create("task", config.task, key="kind").prepare(source_of(config.backbone).preprocessing(config.backbone), cache)
    meter = task.meter()
    batch = task.batch(task.splits(config.seed).validation)
    with torch.inference_mode():
        meter.update(backbone.outputs(module, task.inputs(batch)), batch)
    return meter.compute()["accuracy"]


@pytest.mark.parametrize("label", ["qlora", "int8", "after", "zero", "zero-groups"])
def test_a_record_gives_back_what_was_evaluated(runs: Trained, label: str, cache: Path) -> None:
    results = runs.run(label).results()
    assert results is not None
    assert results.metrics["validation"]["accuracy"] == pytest.approx(accuracy(runs, label, cache))


def test_loss_falls_beside_the_quantized_base(runs: Trained) -> None:
    for label in ("qlora", "int8"):
        losses = [line.loss for line in runs.run(label).metrics() if line.split == "train" and line.loss is not None]
        assert sum(losses[-3:]) < sum(losses[:3])
    for label in ("zero", "zero-groups"):
        results = runs.run(label).results()
        assert results is not None and results.steps == 0 and results.metrics["test"]


def test_memory_names_the_bytes_that_are_stored(runs: Trained) -> None:
    for label in ("qlora", "int8", "zero"):
        memory = json.loads((runs.run(label).path / "memory.json").read_text())
        found = analysis(runs, label)
        assert memory["quantized_mb"] == pytest.approx(found["converted"]["stored_bytes"] / 1e6)
        heads = 0 if label == "zero" else 10 * 33 * 4 / 1e6  # PEFT keeps the untrained head beside the trained one
        assert memory["tensors_mb"]["weights"] < found["model"]["stored_bytes"] / 1e6 + heads
    plain = json.loads((runs.run("float").path / "memory.json").read_text())
    assert plain["quantized_mb"] == 0
    assert not (runs.run("float").path / "quantization_analysis.json").exists()


def test_the_analysis_counts_and_compares(runs: Trained) -> None:
    found = analysis(runs, "qlora")
    config = runs.run("qlora").config()
    backbone, module = load_deployed(config, runs.run("qlora").adapter, 10)
    layers = quantized_layers(module)
    assert len(found["layers"]) == len(layers)
    assert found["converted"]["stored_bytes"] == sum(layer.stored_bytes() for layer in layers.values())
    assert found["converted"]["parameters"] == sum(layer.in_features * layer.out_features for layer in layers.values())
    assert found["left_in_float"] == {backbone.head: "head"}
    assert all(0.05 < layer["weight_error"] < 0.15 for layer in found["layers"].values())
    assert 0 < found["outputs"]["relative_error"] < 0.5
    assert 0.8 < found["gradient"]["cosine"] < 1
    assert analysis(runs, "int8")["outputs"]["relative_error"] < found["outputs"]["relative_error"]
    for label, rank in (("qlora", 8), ("int8", 8)):
        taken = analysis(runs, label)["cancellation"]
        assert taken["sites"] and all(0 < site["aligned"] <= site["bound"] for site in taken["sites"].values())
        assert {site["rank"] for site in taken["sites"].values()} == {rank}
    assert analysis(runs, "zero")["cancellation"]["sites"] == {}


def test_quantized_after_training_is_the_float_run_rounded(runs: Trained) -> None:
    float_run, after = runs.run("float").results(), runs.run("after").results()
    assert float_run is not None and after is not None
    found = analysis(runs, "after")
    assert found["validation"]["float"] == float_run.metrics["validation"], "training is the same to the bit"
    assert found["validation"]["quantized"] == after.metrics["validation"]
    assert found["validation"]["quantized"]["loss"] != found["validation"]["float"]["loss"]
    assert runs.run("after").run_id != runs.run("float").run_id
    _, module = load_deployed(runs.run("after").config(), runs.run("after").adapter, 10)
    assert len(quantized_layers(module)) == len(found["layers"])


def test_both_merges_and_what_they_lose(runs: Trained, tmp_path: Path) -> None:
    for way, options in (("float", {}), ("requantized", {"requantize": True})):
        answer = api.export(runs.folder, "qlora", tmp_path / way, merged=True, **options)
        losses = answer["merge_losses"]
        assert losses["float"] <= 1e-4 < losses["requantized"], "rounding again costs something"
        assert answer["merge_difference"] == losses[way]
    config = runs.run("qlora").config()
    with torch.inference_mode():
        _, backbone, module = load_adapted(config, runs.run("qlora").adapter, 10)
        unmerged = backbone.outputs(module, {"pixel_values": pixels()})
        from peftlab.api._model_folder import Exported, load_forward

        images = {"pixel_values": pixels()}
        merged = {way: load_forward(tmp_path / way, Exported.read(tmp_path / way))(images) for way in ("float", "requantized")}
    assert close(merged["float"], unmerged)
    assert not close(merged["requantized"], unmerged)


def test_what_cannot_be_requantized(runs: Trained, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="only a merged model"):
        api.export(runs.folder, "qlora", tmp_path / "a", requantize=True)
    with pytest.raises(OptionError, match="no quantizer"):
        api.export(runs.folder, "float", tmp_path / "b", merged=True, requantize=True)


def test_a_default_written_out_is_the_same_run(runs: Trained) -> None:
    config = runs.run("qlora").config()
    assert config.quantizer["type"] == "nf4"
    assert "quantize" not in config.identity()


def test_what_a_rescued_run_hands_over_computes_as_the_run_did(tmp_path: Path, cache: Path) -> None:
    """The first layers of the MLPs pass float16's 65,504; the run went on in float32, and so does what is exported."""
    backbone = make("vit", tmp_path / "vit")
    weights = load_file(backbone / "model.safetensors")
    large = {n: t * 2e6 if n.endswith("intermediate.dense.weight") else t.clone() for n, t in weights.items()}
    save_file(large, backbone / "model.safetensors", metadata={"format": "pt"})
    study = study_of(backbone, {"qlora": {"adapter": "lora", "quantizer": QUANTIZER | {"compute_dtype": "float16"}}}, [0])
    study["train"] |= {"max_steps": 2, "learning_rate": 1e-4, "on_non_finite": "higher-precision"}
    runs = Trained(train(study, tmp_path / "tiny", cache), backbone)
    results = runs.run("qlora").results()
    assert results is not None and results.quantizer is not None and results.flags
    answer = api.export(runs.folder, "qlora", tmp_path / "out", evaluate=True)
    assert answer["run_id"] == results.run_id
    assert answer["test"]["accuracy"] == pytest.approx(results.metrics["test"]["accuracy"])
    exported = Exported.read(tmp_path / "out")
    assert exported.config == runs.run("qlora").config() and exported.quantizer == results.quantizer
    assert torch.isfinite(load_forward(tmp_path / "out", exported)({"pixel_values": pixels()})).all()
    as_asked = dataclasses.replace(exported, quantizer=exported.config.quantizer)
    assert not torch.isfinite(load_forward(tmp_path / "out", as_asked)({"pixel_values": pixels()})).all()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "float32" in next(line for line in card.splitlines() if "quantizer of the frozen weights" in line)
