"""A run's model packed and as an ONNX file: read back from the folder it is the model that was trained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import peftlab
from peftlab import api
from peftlab.api._merging import packed_model
from peftlab.api._model_folder import load_adapted, load_deployed
from peftlab.deployment.packed import WEIGHTS, packed_layers
from peftlab.errors import MissingExtra, OptionError, RecordError
from peftlab.records.manifest import MANIFEST
from peftlab.registry import create
from tests.api.conftest import Trained, study_of, train
from tests.api.test_exporting import api_preprocessing, close, pixels, run_logits
from tests.contracts.tiny import make
from tests.tasks.builders import SHARED

ROOT = Path(__file__).parents[2]


def groupwise(type_: str) -> dict[str, Any]:
    return {"name": "groupwise", "type": type_, "group_size": 16}


POOLED = {"name": "pooled", "rank": 2}
ARMS: dict[str, Any] = {
    "qa-int4": {"adapter": POOLED, "quantizer": groupwise("int4")},
    "qa-nf4": {"adapter": {**POOLED, "targets": "all-linear"}, "quantizer": groupwise("nf4")},
    "probe": {"adapter": "linear-probe", "quantizer": groupwise("int8")},
    "lora": {"adapter": "lora", "quantizer": groupwise("int4")},
    "after": {"adapter": "lora", "quantizer": groupwise("int4"), "quantize": "after"},
    "float": {"adapter": "lora"},
}
EXACT = ("qa-int4", "qa-nf4", "probe")


@pytest.fixture(scope="module", params=["timm", "vit"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp(request.param)
    study = study_of(make(request.param, root / "vit"), ARMS, [0])
    study["train"] |= {"max_steps": 12, "learning_rate": 0.02}
    return Trained(train(study, root / "tiny", cache), root / "vit")


def call(runs: Trained, label: str, module: torch.nn.Module) -> torch.Tensor:
    _, backbone, _ = load_adapted(runs.run(label).config(), runs.run(label).adapter, 10)
    with torch.inference_mode():
        return backbone.outputs(module, {"pixel_values": pixels()})


@pytest.mark.parametrize("label", EXACT)
def test_packed_is_the_merged_model_to_the_bit(runs: Trained, label: str, tmp_path: Path) -> None:
    answer = api.export(runs.folder, label, tmp_path / "out", packed=True)
    assert answer["weights"] == "exact" and answer["merge_difference"] <= 1e-4
    adapter, backbone, module = load_adapted(runs.run(label).config(), runs.run(label).adapter, 10)
    merged = packed_model(adapter, backbone, module)
    assert merged is not None
    loaded = peftlab.load_packed(tmp_path / "out")
    assert type(loaded) is type(backbone.module)
    assert torch.equal(call(runs, label, loaded), call(runs, label, merged))
    assert close(call(runs, label, loaded), run_logits(runs, label))
    layers = packed_layers(loaded)
    assert len(layers) == sum(site.block is not None and site.parent is None for site in backbone.roles.sites)
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    assert all(
        tensors[f"{name}.packed"].nbytes == layer.codes().numel() * (1 if label == "probe" else 0.5)
        for name, layer in layers.items()
    )
    assert not (tmp_path / "out" / "model.safetensors").exists(), "a library would load it without the packed layers"


def test_merging_changes_no_code(runs: Trained, tmp_path: Path) -> None:
    api.export(runs.folder, "qa-nf4", tmp_path / "out", packed=True)
    _, _, module = load_adapted(runs.run("qa-nf4").config(), runs.run("qa-nf4").adapter, 10)
    before = torch.cat([layer.codes().flatten() for layer in packed_layers(module).values()])
    loaded = packed_layers(peftlab.load_packed(tmp_path / "out"))
    assert torch.equal(torch.cat([layer.codes().flatten() for layer in loaded.values()]), before)
    assert any(layer.shift is not None and bool(layer.shift.any()) for layer in loaded.values())


def test_what_is_quantized_after_training_is_packed_as_it_was_evaluated(runs: Trained, tmp_path: Path) -> None:
    answer = api.export(runs.folder, "after", tmp_path / "out", packed=True)
    assert answer["weights"] == "requantized" and answer["merge_losses"]["float"] <= 1e-4
    backbone, module = load_deployed(runs.run("after").config(), runs.run("after").adapter, 10)
    with torch.inference_mode():
        wanted = backbone.outputs(module, {"pixel_values": pixels()})
    assert torch.equal(call(runs, "after", peftlab.load_packed(tmp_path / "out")), wanted)


def test_an_update_that_does_not_fit_is_packed_on_request_only(runs: Trained, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not fit into what 'groupwise' stores"):
        api.export(runs.folder, "lora", tmp_path / "out", packed=True)
    assert not (tmp_path / "out").exists()
    answer = api.export(runs.folder, "lora", tmp_path / "out", packed=True, requantize=True)
    assert answer["weights"] == "requantized"
    assert answer["merge_difference"] == answer["merge_losses"]["requantized"] > answer["merge_losses"]["float"]
    assert packed_layers(peftlab.load_packed(tmp_path / "out"))


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        ("float", {"packed": True}, "not stored in groups"),
        ("qa-int4", {"packed": True, "merged": True}, "one form"),
        ("qa-int4", {"packed": True, "onnx": True}, "one form"),
        ("qa-int4", {"packed": True, "activations": "int8"}, "only an ONNX model"),
        ("qa-int4", {"onnx": True, "activations": "int3"}, "no such thing"),
        ("qa-int4", {"requantize": True}, "only a merged model"),
        ("float", {"onnx": True, "requantize": True}, "no quantizer"),
        ("float", {"onnx": True, "activations": "int8"}, "nothing in this model is packed"),
        ("qa-nf4", {"onnx": True, "activations": "int8"}, "float inputs only"),
    ],
)
def test_what_cannot_be_asked(runs: Trained, label: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    if options.get("onnx"):
        pytest.importorskip("onnxscript", reason="needs the extra onnx")
    with pytest.raises(OptionError, match=message) as caught:
        api.export(runs.folder, label, tmp_path / "out", **options)
    assert caught.value.remedy and not (tmp_path / "out").exists()


def test_without_the_extra_nothing_is_loaded(runs: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(MissingExtra, match="onnxruntime"):
        api.export(tmp_path / "no such study", "x", tmp_path / "out", onnx=True)


def test_a_changed_or_other_folder_is_no_packed_model(runs: Trained, tmp_path: Path) -> None:
    api.export(runs.folder, "qa-int4", tmp_path / "out", packed=True)
    api.export(runs.folder, "qa-int4", tmp_path / "merged", merged=True)
    with pytest.raises(RecordError, match="kind 'merged'"):
        peftlab.load_packed(tmp_path / "merged")
    with pytest.raises(RecordError, match=r"has no peftlab.json"):
        peftlab.load_packed(runs.folder)
    weights = tmp_path / "out" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RecordError, match=WEIGHTS):
        peftlab.load_packed(tmp_path / "out")
    weights.write_bytes(whole[:-100])
    (tmp_path / "out" / MANIFEST).unlink()  # copied without it, the format itself is checked
    with pytest.raises(RecordError, match="not readable as safetensors"):
        peftlab.load_packed(tmp_path / "out")


@pytest.mark.usefixtures("in_cache")
def test_packed_predicts_and_is_scored_as_the_run_was(runs: Trained, tmp_path: Path, pictures: Path) -> None:
    answer = api.export(runs.folder, "qa-int4", tmp_path / "packed", packed=True, evaluate=True)
    results = runs.run("qa-int4").results()
    assert results is not None
    assert answer["test"] == pytest.approx(results.metrics["test"], rel=1e-4)
    assert answer["test_of_the_run"] == results.metrics["test"]
    api.export(runs.folder, "qa-int4", tmp_path / "adapter")
    told = [api.predict(tmp_path / form, pictures)["predictions"] for form in ("adapter", "packed")]
    assert [p["label"] for p in told[0]] == [p["label"] for p in told[1]]
    assert [p["confidence"] for p in told[0]] == pytest.approx([p["confidence"] for p in told[1]], abs=1e-5)


def example() -> str:
    """The program of docs/deployment.md."""
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnxruntime" in block)


@pytest.mark.usefixtures("in_cache")
@pytest.mark.parametrize("label", ["qa-int4", pytest.param("qa-nf4", marks=pytest.mark.slow)])
def test_onnx_scores_as_the_run_did_with_onnxruntime_alone(runs: Trained, label: str, tmp_path: Path, pictures: Path) -> None:
    """A fresh process without torch, running the documented program."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    answer = api.export(runs.folder, label, tmp_path / "out", onnx=True, evaluate=True)
    results = runs.run(label).results()
    assert results is not None and answer["weights"] == "exact" and 0 < answer["engine_difference"] <= 1e-5
    assert answer["test"]["accuracy"] == results.metrics["test"]["accuracy"]
    assert answer["test"]["loss"] == pytest.approx(results.metrics["test"]["loss"], rel=1e-4)
    files = [str(file) for file in sorted(pictures.glob("*.png"))]
    given, found = str(tmp_path / "pixels.npy"), str(tmp_path / "logits.npy")
    np.save(given, pixels().numpy())
    program = f"""{example()}
import sys
np.save({found!r}, session.run(None, {{"pixel_values": np.load({given!r})}})[0])
assert not {{"torch", "transformers", "timm", "peftlab"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out" / "model.onnx"), *files],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert close(torch.from_numpy(np.load(found)), run_logits(runs, label))
    predicted = api.predict(tmp_path / "out", files)["predictions"]
    lines = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == [entry["label"] for entry in predicted]
    assert [float(line[2]) for line in lines] == pytest.approx([entry["confidence"] for entry in predicted], abs=1e-3)


def test_onnx_of_other_runs(runs: Trained, tmp_path: Path) -> None:
    """In float where the codes would not stay; a changed file is refused."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    answer = api.export(runs.folder, "lora", tmp_path / "out", onnx=True)
    assert answer["weights"] == "float" and answer["merge_difference"] <= 1e-4
    operators = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert "MatMulNBits" not in operators
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: onnx" in card and "onnxruntime" in card
    assert json.loads((tmp_path / "out" / "peftlab.json").read_text())["kind"] == "onnx"
    path = tmp_path / "out" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordError, match=r"model\.onnx"):
        api.predict(tmp_path / "out", [])


SCORE = """
import json, sys
import numpy as np, onnxruntime

data = np.load(sys.argv[2])
logits = onnxruntime.InferenceSession(sys.argv[1]).run(None, {"pixel_values": data["pixel_values"]})[0]
assert not {"torch", "transformers", "timm", "peftlab"} & set(sys.modules)
print(json.dumps({"accuracy": float((logits.argmax(1) == data["labels"]).mean()), "largest": float(np.abs(logits).max())}))
"""
VIT_TINY = SHARED.parent / "weights" / "vit_tiny_patch16_224"
REAL = {
    "bundled": ("bundled:vit-nano", {"data": "digits"}),
    "vit-tiny": (str(VIT_TINY), {"data": str(SHARED / "cifar10"), "image_size": 96}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_trained_backbone_scores_the_same_in_onnxruntime_alone(name: str, tmp_path: Path, cache: Path) -> None:
    """QA-LoRA on real weights, merged into INT4; the whole test split in a fresh process that has no torch."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    backbone, data = REAL[name]
    if name == "vit-tiny" and not VIT_TINY.is_dir():
        pytest.skip("the shared weights are not here")
    quantizer = {"name": "groupwise", "type": "int4", "group_size": 32}
    study = study_of(Path(backbone), {"qa-lora": {"adapter": POOLED, "quantizer": quantizer}}, [0])
    study |= {"backbone": backbone, "task": study["task"] | data}
    study["train"] |= {"max_steps": 24, "learning_rate": 0.003}
    trained = Trained(train(study, tmp_path / "study", cache), Path(backbone))
    run = trained.run("qa-lora")
    results = run.results()
    assert results is not None and results.metrics["test"]["accuracy"] > 2 * results.chance["accuracy"], "it has learnt something"
    api.export(trained.folder, "qa-lora", tmp_path / "out", onnx=True)
    preprocessing = api_preprocessing(run.config())
    task = create("task", run.config().task, key="kind").prepare(preprocessing, cache)
    batch = task.batch(task.splits(0).test)
    np.savez(tmp_path / "test.npz", pixel_values=task.inputs(batch)["pixel_values"].numpy(), labels=batch["labels"].numpy())
    model, given = tmp_path / "out" / "model.onnx", tmp_path / "test.npz"
    done = subprocess.run([sys.executable, "-c", SCORE, model, given], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == pytest.approx(results.metrics["test"]["accuracy"])
    packed = api.export(trained.folder, "qa-lora", tmp_path / "packed", packed=True)
    dense = api.export(trained.folder, "qa-lora", tmp_path / "merged", merged=True)
    if name == "vit-tiny":
        assert (tmp_path / "packed" / WEIGHTS).stat().st_size <= 0.25 * (tmp_path / "merged" / "model.safetensors").stat().st_size
        assert model.stat().st_size <= 0.25 * (tmp_path / "merged" / "model.safetensors").stat().st_size
    assert packed["bytes"] < dense["bytes"]
