"""What is exported gives the run's own outputs in libraries that know nothing of peftlab."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image

from peftlab import api
from peftlab.api._model_folder import FILE, Exported, load_adapted
from peftlab.backbones.timm import TimmBackbone
from peftlab.errors import BackboneError, RecordError
from peftlab.records.manifest import verify_folder
from peftlab.records.store import ResultsFolder
from peftlab.tasks._images import resize_and_crop
from peftlab.tasks._normalise import Normalise
from tests.api.conftest import OWN, SIZE, Trained


def pixels() -> torch.Tensor:
    return torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(11))


def run_logits(trained: Trained, label: str, seed: int = 0) -> torch.Tensor:
    """The run's own model, as the record holds it."""
    run = trained.run(label, seed)
    _, backbone, module = load_adapted(run.config(), run.adapter, 10)
    with torch.inference_mode():
        return backbone.outputs(module, {"pixel_values": pixels()})


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Within 1e-4 of the largest logit."""
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max())


def recorded_accuracy_is_that_of(trained: Trained, label: str, cache: Path) -> None:
    """The reloaded model scores exactly what the record says: save and load lost nothing."""
    from peftlab.registry import create

    run = trained.run(label)
    config, results = run.config(), run.results()
    assert results is not None
    task = create("task", config.task, key="kind").prepare(api_preprocessing(config), cache)
    _, backbone, module = load_adapted(config, run.adapter, 10)
    meter = task.meter()
    batch = task.batch(task.splits(0).test)
    with torch.inference_mode():
        meter.update(backbone.outputs(module, task.inputs(batch)), batch)
    computed = meter.compute()
    assert computed["accuracy"] == results.metrics["test"]["accuracy"]
    assert computed["loss"] == pytest.approx(results.metrics["test"]["loss"], rel=1e-5)


def api_preprocessing(config):
    from peftlab.api.exporting import preprocessing_of

    return preprocessing_of(config)


def test_the_record_reloads_to_the_numbers_in_it(trained: Trained, trained_timm: Trained, cache: Path) -> None:
    for where, label in ((trained, "lora"), (trained, "probe"), (trained_timm, "lora")):
        recorded_accuracy_is_that_of(where, label, cache)


def test_adapter_loads_in_plain_peft(trained: Trained, tmp_path: Path) -> None:
    """``PeftModel.from_pretrained`` on the plain backbone, with a head of the right size and other values."""
    from transformers import ViTForImageClassification

    run = trained.run("lora")
    answer = api.export(trained.folder, run.run_id[:10], tmp_path / "out")
    assert answer["run_id"] == run.run_id
    plain = ViTForImageClassification.from_pretrained(trained.backbone, num_labels=10, ignore_mismatched_sizes=True)
    model = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    wanted = run_logits(trained, "lora")
    with torch.inference_mode():
        assert close(model(pixel_values=pixels()).logits, wanted)
        with model.disable_adapter():
            assert not close(model(pixel_values=pixels()).logits, wanted)


def test_adapter_of_fused_qkv_loads_in_plain_peft(trained_timm: Trained, tmp_path: Path) -> None:
    """timm's fused layer carries one adapter; q and v were adapted, k not."""
    import timm

    api.export(trained_timm.folder, "lora", tmp_path / "out")
    plain = timm.create_model(f"local-dir:{trained_timm.backbone}", pretrained=True, img_size=SIZE, num_classes=10)
    names = [name for name, _ in plain.named_modules()]
    model = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    wanted = run_logits(trained_timm, "lora")
    with torch.inference_mode():
        assert close(model(pixels()), wanted)
    layer = model.base_model.model.blocks[0].attn.qkv
    update = layer.get_delta_weight("default").split(32)
    assert update[0].abs().max() > 0 and update[2].abs().max() > 0
    assert update[1].abs().max() == 0
    merged = model.merge_and_unload()
    assert [name for name, _ in merged.named_modules()] == names
    with torch.inference_mode():
        assert close(merged(pixels()), wanted)


@pytest.mark.parametrize("label", ["lora", "probe"])
def test_merged_transformers_model_is_plain(trained: Trained, label: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    answer = api.export(trained.folder, trained.run(label).run_id, tmp_path / "out", merged=True)
    assert answer["merge_difference"] <= 1e-4
    model, report = AutoModelForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {number: str(number) for number in range(10)}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers" in card and "the whole model" in card
    with torch.inference_mode():
        assert close(model.eval()(pixel_values=pixels()).logits, run_logits(trained, label))


def test_merged_model_works_in_a_transformers_pipeline(trained: Trained, tmp_path: Path, pictures: Path) -> None:
    """The exported folder's own processor gives the training's pixels, to a grey level; so the pipeline gives our confidences.

    Where the margin of the centre crop is odd, transformers rounds it down and torchvision (and we) to the even number: those
    images may be shifted by a pixel and are left out.
    """
    from transformers import AutoImageProcessor, pipeline

    api.export(trained.folder, "lora", tmp_path / "out", merged=True)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    normalise = Normalise(Exported.read(tmp_path / "out").preprocessing)
    files = [file for file in sorted(pictures.glob("*.png")) if _margin(file) % 2 == 0]
    assert len(files) >= 5
    pipe = pipeline("image-classification", model=str(tmp_path / "out"), device="cpu", top_k=10)
    ours = {Path(p["file"]).name: p for p in api.predict(tmp_path / "out", files)["predictions"]}
    for file in files:
        image = Image.open(file).convert("RGB")
        mine = normalise(np.stack([resize_and_crop(image, Exported.read(tmp_path / "out").preprocessing)]))
        assert (processor(image, return_tensors="pt")["pixel_values"] - mine).abs().max() < 2.01 / 255
        theirs = {entry["label"]: entry["score"] for entry in pipe(str(file))}
        for top in ours[file.name]["top"]:
            assert theirs[top["label"]] == pytest.approx(top["confidence"], abs=3e-3)


def _margin(file: Path) -> int:
    """Pixels that the centre crop takes off the longer side."""
    short, long = sorted(Image.open(file).size)
    return int(SIZE * long / short) - SIZE


def test_merged_timm_model_is_plain(trained_timm: Trained, tmp_path: Path) -> None:
    import timm
    from timm.data import resolve_model_data_config

    api.export(trained_timm.folder, "lora", tmp_path / "out", merged=True)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        assert close(model(pixels()), run_logits(trained_timm, "lora"))
    data = resolve_model_data_config(model)
    exported = Exported.read(tmp_path / "out")
    assert data["input_size"] == (3, SIZE, SIZE)
    assert (tuple(data["mean"]), tuple(data["std"])) == (exported.preprocessing.mean, exported.preprocessing.std)
    assert model.pretrained_cfg["label_names"] == [str(number) for number in range(10)]


@pytest.mark.parametrize("label", OWN)
def test_merged_ssf_and_fact_are_plain_transformers_models(trained_own: Trained, cache: Path, label: str, tmp_path: Path) -> None:
    """Nothing of the method is left in the exported folder, and its outputs are the run's."""
    from transformers import AutoModelForImageClassification

    recorded_accuracy_is_that_of(trained_own, label, cache)
    answer = api.export(trained_own.folder, label, tmp_path / "out", merged=True)
    assert answer["merge_difference"] <= 1e-4
    plain = AutoModelForImageClassification.from_pretrained(trained_own.backbone, num_labels=10, ignore_mismatched_sizes=True)
    model, report = AutoModelForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {n: v.shape for n, v in model.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}
    with torch.inference_mode():
        assert close(model.eval()(pixel_values=pixels()).logits, run_logits(trained_own, label))
        plain.classifier = model.classifier
        assert not close(plain.eval()(pixel_values=pixels()).logits, run_logits(trained_own, label)), "the head is not all"


@pytest.mark.parametrize("label", OWN)
def test_merged_ssf_and_fact_are_plain_timm_models(trained_own_timm: Trained, cache: Path, label: str, tmp_path: Path) -> None:
    import timm

    recorded_accuracy_is_that_of(trained_own_timm, label, cache)
    api.export(trained_own_timm.folder, label, tmp_path / "out", merged=True)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    plain = timm.create_model(f"local-dir:{trained_own_timm.backbone}", pretrained=True, img_size=SIZE, num_classes=10).eval()
    assert {n: v.shape for n, v in model.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}
    with torch.inference_mode():
        assert close(model(pixels()), run_logits(trained_own_timm, label))
        plain.head = model.head
        assert not close(plain(pixels()), run_logits(trained_own_timm, label)), "the head is not all"


@pytest.mark.parametrize("label", OWN)
def test_unmerged_ssf_and_fact_predict_what_the_run_does(
    trained_own: Trained, label: str, tmp_path: Path, pictures: Path
) -> None:
    api.export(trained_own.folder, label, tmp_path / "adapter")
    api.export(trained_own.folder, label, tmp_path / "merged", merged=True)
    files = sorted(pictures.glob("*.png"))
    told = [api.predict(tmp_path / form, files)["predictions"] for form in ("adapter", "merged")]
    assert [p["label"] for p in told[0]] == [p["label"] for p in told[1]]
    assert [p["confidence"] for p in told[0]] == pytest.approx([p["confidence"] for p in told[1]], abs=1e-4)


def test_label_means_the_best_run_on_validation(trained: Trained, tmp_path: Path) -> None:
    scores = {}
    for seed in (0, 1):
        results = trained.run("lora", seed).results()
        assert results is not None
        scores[seed] = (results.metrics["validation"]["accuracy"], trained.run("lora", seed).run_id)
    answer = api.export(trained.folder, "lora", tmp_path / "out")
    assert answer["run_id"] == max(scores.values())[1]
    assert "validation" in answer["chosen"] and "2 runs" in answer["chosen"]


def test_test_data_have_no_say(trained: Trained, tmp_path: Path) -> None:
    """With the validation order turned round, the other run is chosen, whatever the test metric."""
    from peftlab.records.record import RunResults

    scores = {}
    for seed, validation, test in ((0, 0.9, 0.1), (1, 0.2, 0.99)):
        config = trained.run("lora", seed).config()
        copy = ResultsFolder(tmp_path / "study").open_or_create(ResultsFolder(trained.folder).study_text()).run(config)
        copy.create(config)
        shutil.copytree(trained.run("lora", seed).adapter, copy.adapter)
        whole = trained.run("lora", seed).results()
        assert whole is not None
        metrics = {"validation": {"accuracy": validation}, "test": {"accuracy": test}}
        copy.finish(RunResults.model_validate({**whole.model_dump(), "metrics": metrics}))
        scores[seed] = config.run_id
    assert api.export(tmp_path / "study", "lora", tmp_path / "out")["run_id"] == scores[0]


def test_runs_of_an_earlier_form_of_the_study_have_no_say(trained: Trained, tmp_path: Path) -> None:
    """The study was changed and run again in its folder; what ended, or failed, before is another task."""
    from peftlab.records.record import RunError, RunResults

    folder = ResultsFolder(shutil.copytree(trained.folder, tmp_path / "tiny"))
    text = folder.study_text()
    folder.open_or_create(text.replace("train_size: 200", "train_size: 150"))
    with pytest.raises(RecordError, match=r"earlier form of the study.*train_size 200, now 150") as caught:
        api.export(folder.path, "lora", tmp_path / "out")
    assert "peftlab run" in caught.value.remedy
    old = trained.run("lora", 0)
    config = old.config()
    config = config.model_copy(update={"task": {**config.task, "train_size": 150}})
    new = folder.run(config).create(config)
    shutil.copytree(old.adapter, new.adapter)
    whole = old.results()
    assert whole is not None
    worst = {"validation": {"accuracy": 0.0}, "test": {"accuracy": 0.0}}
    new.finish(RunResults.model_validate({**whole.model_dump(), "run_id": config.run_id, "metrics": worst}))
    assert api.export(folder.path, "lora", tmp_path / "now")["run_id"] == config.run_id
    failed = config.model_copy(update={"task": {**config.task, "train_size": 140}})
    folder.run(failed).create(failed).fail(RunError(run_id=failed.run_id, error={"type": "DataError", "what": "no such folder"}))
    assert api.export(folder.path, "lora", tmp_path / "still")["run_id"] == config.run_id


def test_folder_holds_what_prediction_needs(trained: Trained, tmp_path: Path) -> None:
    answer = api.export(trained.folder, "probe", tmp_path / "out")
    assert verify_folder(tmp_path / "out") == []
    about = json.loads((tmp_path / "out" / FILE).read_text())
    assert about["label_names"] == [str(number) for number in range(10)]
    assert about["backbone"]["fingerprint"] == trained.run("probe").config().backbone_fingerprint
    assert about["preprocessing"]["image_size"] == SIZE
    assert "library_name: peftlab\n" in (tmp_path / "out" / "README.md").read_text(), "there is no adapter_config.json for PEFT"
    assert json.dumps(answer.as_dict())
    api.export(trained.folder, "lora", tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert "library_name: peft\n" in (tmp_path / "lora" / "README.md").read_text()


def test_nothing_is_overwritten(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("dear to me")
    with pytest.raises(RecordError, match="not empty"):
        api.export(trained.folder, "lora", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_unknown_run_suggests_an_arm(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RecordError) as caught:
        api.export(trained.folder, "lara", tmp_path / "out")
    assert "'lora'" in caught.value.remedy


def test_damaged_record_is_not_exported(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "tiny")
    run = Trained(tmp_path / "tiny", trained.backbone).run("lora")
    weights = run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(RecordError, match="damaged"):
        api.export(tmp_path / "tiny", run.run_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    answer = api.verify(tmp_path / "tiny")
    assert answer.exit_code == 6 and any(run.run_id in problem for problem in answer["problems"])
    assert api.verify(trained.folder).exit_code == 0


def test_changed_backbone_is_noticed(trained: Trained, tmp_path: Path) -> None:
    """An adapter on other weights is another model: refused."""
    shutil.copytree(trained.backbone, tmp_path / "vit")
    config = trained.run("lora").config()
    moved = config.model_copy(update={"backbone": str(tmp_path / "vit")})
    load_adapted(moved, trained.run("lora").adapter, 10)
    about = json.loads((tmp_path / "vit" / "config.json").read_text())
    (tmp_path / "vit" / "config.json").write_text(json.dumps({**about, "layer_norm_eps": 1e-3}))
    with pytest.raises(BackboneError, match="not the weights"):
        load_adapted(moved, trained.run("lora").adapter, 10)


def test_timms_own_transform_gives_the_pixels_of_training(trained_timm: Trained, tmp_path: Path, pictures: Path) -> None:
    """timm rounds size / crop down (32 / 0.9: 35 pixels), training to the nearest (36): the share written leads to 36 in both."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    api.export(trained_timm.folder, "lora", tmp_path / "out", merged=True)
    config = resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path / 'out'}"))
    wanted = Exported.read(tmp_path / "out").preprocessing
    assert int(SIZE / wanted.crop) != round(SIZE / wanted.crop)
    transform, normalise = create_transform(**config, is_training=False), Normalise(wanted)
    for file in sorted(pictures.glob("*.png")):
        image = Image.open(file).convert("RGB")
        assert torch.allclose(transform(image), normalise(np.stack([resize_and_crop(image, wanted)]))[0], atol=1e-5)
    again = TimmBackbone.preprocessing(str(tmp_path / "out"))
    assert round(again.image_size / again.crop) == round(SIZE / wanted.crop)
