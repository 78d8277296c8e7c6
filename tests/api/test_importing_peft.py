"""Adapters that plain PEFT made and saved, of many kinds: imported they score as plain PEFT scores them; misfits say why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification

from peftlab import api
from peftlab.analysis.frame import load_frame
from peftlab.api._adapter_folder import other_base, quantized_base
from peftlab.api._import_adapter import _precision
from peftlab.errors import DataError, RecordError, StudyError
from peftlab.registry import create
from peftlab.tasks.contract import Preprocessing
from tests.api.conftest import Trained

pytestmark = pytest.mark.usefixtures("in_cache")
QV = ["q_proj", "v_proj"]
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": QV, "modules_to_save": ["classifier"]}


def base(study: Trained, classes: int = 10) -> Any:
    return AutoModelForImageClassification.from_pretrained(study.backbone, num_labels=classes, ignore_mismatched_sizes=True)


def saved(model: Any, config: peft.PeftConfig, folder: Path, seed: int = 1) -> Path:
    """As a training script leaves it: every tensor of the adapter and of what else was trained is some other value."""
    made: Any = peft.get_peft_model(model, config)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in made.named_parameters():
            if ".original_module." not in name and (".default" in name or "lora_" in name or "ia3_" in name):
                parameter.add_(0.2 * torch.randn_like(parameter))
    made.save_pretrained(str(folder))
    return folder


def plainly(study: Trained, folder: Path) -> tuple[float, float]:
    """Accuracy and loss on the study's test images, of plain transformers and PEFT."""
    config = study.run("lora").config()
    task: Any = create("task", config.task, key="kind", where="task")
    prepared = task.prepare(Preprocessing(image_size=32), study.folder / "cache")
    batch = prepared.batch(prepared.splits(0).test)
    model: Any = peft.PeftModel.from_pretrained(base(study), str(folder)).eval()
    with torch.inference_mode():
        logits = model(pixel_values=batch["pixel_values"]).logits
    right = (logits.argmax(1) == batch["labels"]).double().mean()
    return float(right), float(nn.functional.cross_entropy(logits, batch["labels"]))


KINDS: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(**LORA),
    "head-by-task-type": peft.LoraConfig(r=4, target_modules=QV, task_type="SEQ_CLS"),
    "dora": peft.LoraConfig(**LORA, use_dora=True),
    "rslora": peft.LoraConfig(**LORA, use_rslora=True),
    "patterns": peft.LoraConfig(**LORA, rank_pattern={".*layers.0.*": 2}, alpha_pattern={".*layers.1.*": 2}),
    "norm-beside-the-head": peft.LoraConfig(**{**LORA, "modules_to_save": ["classifier", "layernorm"]}),
    "bias": peft.LoraConfig(**LORA, bias="all"),
    "pissa": peft.LoraConfig(**LORA, init_lora_weights="pissa"),
    "ia3": peft.IA3Config(target_modules=QV, feedforward_modules=[], modules_to_save=["classifier"]),
    "adalora": peft.AdaLoraConfig(target_modules=QV, total_step=10, modules_to_save=["classifier"]),
    "norms-alone": peft.LNTuningConfig(target_modules=["layernorm_before"], modules_to_save=["classifier"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_plain_peft_scores_as_plain_peft_scores_it(kind: str, study: Trained, tmp_path: Path) -> None:
    folder = saved(base(study), KINDS[kind], tmp_path / kind)
    accuracy, loss = plainly(study, folder)
    (record,) = api.import_results(folder, study.folder, "theirs")["records"]
    assert record["metrics"]["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert record["metrics"]["test"]["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        ("other model", "says 'elsewhere/other'"),
        ("20 outputs, and the study's task 10 classes", "with the same classes"),
        ("an adapter below", "name .*mine"),
        ("weights are pickled", "save it again"),
        ("a whole model, no adapter", "before the merge"),
    ],
)
def test_what_does_not_fit_says_why_and_leaves_nothing(what: str, remedy: str, study: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    if what == "other model":
        import timm

        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
        saved(model, peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"]), folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere/other"}))
        what = "adapts 'blocks.0.attn.qkv"
    elif what.startswith("20"):
        saved(base(study, 20), peft.LoraConfig(**LORA), folder)
    elif what == "a whole model, no adapter":
        base(study).save_pretrained(folder)
    else:
        model = peft.get_peft_model(base(study), peft.LoraConfig(**LORA), adapter_name="mine")
        model.save_pretrained(str(folder))
        if "pickled" in what:
            (folder / "mine" / "adapter_model.safetensors").rename(folder / "mine" / "adapter_model.bin")
            folder = folder / "mine"
    with pytest.raises((DataError, RecordError), match=what) as caught:
        api.import_results(folder, study.folder, "theirs")
    assert caught.value.where and re.search(remedy, caught.value.remedy)
    assert not (study.folder / "runs" / "theirs").exists()


def test_adapters_of_several_seeds_are_one_arm(study: Trained, tmp_path: Path) -> None:
    """Each stands beside a seed of the study; the same one twice is one replicate and no two."""
    for seed in (0, 1):
        folder = saved(base(study), KINDS["lora"], tmp_path / f"seed-{seed}", seed)
        api.import_results(folder, study.folder, "theirs", seed=seed)
    rows = load_frame(study.folder).primary()
    assert sorted(rows[rows["label"] == "theirs"]["seed"]) == [0, 1]
    with pytest.raises(RecordError, match="this very adapter is in 'again' already, with seed 0"):
        for seed in (0, 1):
            api.import_results(tmp_path / "seed-0", study.folder, "again", seed=seed)
    with pytest.raises(StudyError, match="7 is no seed of the study") as caught:
        api.import_results(tmp_path / "seed-0", study.folder, "other", seed=7)
    assert "0, 1" in caught.value.remedy
    (tmp_path / "numbers.csv").write_text("seed,accuracy\n0,0.9\n")
    with pytest.raises(StudyError, match="a table has a column for it"):
        api.import_results(tmp_path / "numbers.csv", study.folder, "numbers", seed=0)


def test_what_is_not_known_of_it_is_said(study: Trained, tmp_path: Path) -> None:
    """In the answer, and once in the analysis; that nothing is known of its training is no "0 epochs"."""
    folder = saved(base(study), KINDS["lora"], tmp_path / "theirs")
    answer = api.import_results(folder, study.folder, "theirs")
    outcome = study.run("theirs").results()
    assert outcome is not None
    told = "\n".join(outcome.notes)
    assert "evaluated on the backbone in float32; its files do not say whether it was trained on a quantized one" in told
    assert "one replicate" in told and "numbered as in the study (0 0; 1 1;" in told
    value, chance = answer["records"][0]["metrics"]["test"]["accuracy"], outcome.chance["accuracy"]
    assert ("no better than chance" in told) == (value <= chance)
    warnings = load_frame(study.folder).warnings
    assert [w for w in warnings if w.startswith("Trained elsewhere: theirs.")] and not [w for w in warnings if "confound" in w]


def test_an_adapter_below_chance_is_asked_about(study: Trained, tmp_path: Path) -> None:
    """Its head always names a class that the test images hold less of than a tenth."""
    folder = saved(base(study), peft.LoraConfig(**LORA), tmp_path / "theirs")
    task: Any = create("task", study.run("lora").config().task, key="kind", where="task")
    prepared = task.prepare(Preprocessing(image_size=32), tmp_path)
    rarest = int(np.bincount(prepared.batch(prepared.splits(0).test)["labels"].numpy()).argmin())
    state = load_file(folder / "adapter_model.safetensors")
    (bias,) = (key for key in state if key.endswith("classifier.bias"))
    state[bias] = torch.nn.functional.one_hot(torch.tensor(rarest), 10).float() * 1e4
    save_file(state, folder / "adapter_model.safetensors")
    api.import_results(folder, study.folder, "theirs")
    outcome = study.run("theirs").results()
    assert outcome is not None and any("no better than chance" in note for note in outcome.notes)


def test_the_adapters_own_word_for_its_base(tmp_path: Path) -> None:
    def said(base_name: Any, backbone: str) -> str | None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base_name}))
        return other_base(tmp_path, backbone)

    assert said("/models/vit-nano/", "bundled:vit-nano") is None
    assert said("google/vit-base", "/elsewhere/vit-base") is None
    assert said(None, "vit") is None and said("", "vit") is None
    assert said("google/vit-base", "google/vit-large@main") == "google/vit-base"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit"}, "with 'bnb'"),
        ({"base_model_name_or_path": "TheBloke/Llama-2-7B-GPTQ"}, "with 'GPTQ'"),
        ({"base_model_name_or_path": "/models/vit-8bit/"}, "with '8bit'"),
        ({"base_model_name_or_path": "vit", "init_lora_weights": "loftq"}, "LoftQ"),
        ({"base_model_name_or_path": "vit", "use_qalora": True}, "QA-LoRA"),
        ({"base_model_name_or_path": "google/vit-base-patch16-224", "init_lora_weights": True, "use_qalora": False}, ""),
        ({"base_model_name_or_path": None}, ""),
    ],
)
def test_what_says_that_the_base_was_quantized(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = quantized_base(tmp_path)
    assert why in found and bool(found) == bool(why)
    said = _precision(tmp_path, torch.float32)
    assert said.startswith("evaluated on the backbone in float32") and ("though it was trained" in said) == bool(why)
