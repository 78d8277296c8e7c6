"""Nothing that is loaded can run code: pickles called weights, code beside them, options that name other files or modules."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError, PeftlabError, StudyError
from peftlab.records.commit import commit_folder
from peftlab.study.load import parse_yaml, validate_study
from peftlab.training.checkpoint import Checkpoints
from tests.security.traps import Pickled, module, pickled

MODELS = dict.fromkeys(("AutoModelForImageClassification", "AutoModelForSequenceClassification"), "evil.EvilModel")
OUTSIDE = {"auto_map": {"AutoConfig": "evil.EvilConfig", **MODELS, "AutoTokenizer": ["evil.EvilTokenizer", None]}}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-was-run"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("vit")
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "vit"))


def load(folder: Path) -> Any:
    return source_of(str(folder)).load(str(folder), outputs=3)


def write(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changed}))


def test_the_traps_work(mark: Path) -> None:
    """A trap that never snaps would prove nothing."""
    import pickle

    pickle.loads(pickled(mark))  # noqa: S301
    assert mark.exists()
    mark.unlink()
    exec(compile(module(mark), "evil.py", "exec"), {})  # noqa: S102
    assert mark.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors", "model-00001-of-00001.safetensors"])
def test_a_pickle_called_safetensors(copied: Path, mark: Path, name: str) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({"x": Pickled(mark)}, copied / name)
    with pytest.raises(BackboneError):
        load(copied)
    (copied / name).write_bytes(pickled(mark))
    with pytest.raises(BackboneError):
        load(copied)
    assert not mark.exists()


def test_pickles_beside_the_weights_are_left_alone(copied: Path, mark: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"):
        torch.save({"x": Pickled(mark)}, copied / name)
    load(copied)
    assert not mark.exists()


@pytest.mark.parametrize("other", ["pytorch_model.bin", "../../elsewhere.safetensors"])
def test_an_index_that_names_other_files(copied: Path, mark: Path, other: str) -> None:
    torch.save({"x": Pickled(mark)}, copied / "pytorch_model.bin")
    (copied / "model.safetensors").rename(copied / "other.safetensors")
    write(copied / "model.safetensors.index.json", metadata={}, weight_map={"x": other})
    with pytest.raises(BackboneError):
        load(copied)
    assert not mark.exists()


@pytest.mark.parametrize("model_type", ["vit", "evil"])
def test_code_that_a_config_names_is_not_run(copied: Path, mark: Path, model_type: str) -> None:
    (copied / "evil.py").write_text(module(mark))
    write(copied / "config.json", **OUTSIDE, model_type=model_type, architectures=["EvilModel"])
    write(copied / "preprocessor_config.json", **OUTSIDE, image_processor_type="Evil")
    if model_type == "evil":
        with pytest.raises(BackboneError):
            load(copied)
    else:
        assert type(load(copied).module).__name__ == "ViTForImageClassification"
    source_of(str(copied)).preprocessing(str(copied))
    assert not mark.exists() and "evil" not in sys.modules


def test_code_that_a_tokenizer_names_is_not_run(tmp_path: Path, mark: Path) -> None:
    from peftlab.tasks._tokens import load_tokenizer

    (tmp_path / "evil.py").write_text(module(mark))
    write(tmp_path / "config.json", model_type="bert")
    write(tmp_path / "tokenizer_config.json", **OUTSIDE, tokenizer_class="EvilTokenizer")
    with pytest.raises(BackboneError):
        load_tokenizer(str(tmp_path))
    assert not mark.exists()


def test_an_adapter_in_a_backbone_folder_leads_nowhere(copied: Path, mark: Path, tmp_path: Path) -> None:
    """transformers follows ``adapter_config.json`` to another base model and loads the adapter, pickled if need be."""
    torch.save({"x": Pickled(mark)}, copied / "adapter_model.bin")
    write(
        copied / "adapter_config.json", peft_type="LORA", base_model_name_or_path="somebody/else", r=1, target_modules=["query"]
    )
    with pytest.raises(BackboneError, match="adapter"):
        load(copied)
    assert not mark.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"architecture": "hf-hub:somebody/else"},
        {"architecture": "local-dir:/tmp/elsewhere"},
        {"architecture": "../../elsewhere"},
        {"model_args": {"checkpoint_path": "trap.bin"}},
        {"model_args": {"pretrained": True, "pretrained_cfg": {"file": "trap.bin"}}},
        {"model_args": {"pretrained_cfg_overlay": {"file": "trap.bin"}}},
        {"model_args": {"scriptable": True}},
        {"model_args": ["depth"]},
        {"architecture": ["vit"]},
    ],
)
def test_a_timm_folder_names_no_other_files(tmp_path: Path, mark: Path, changed: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Pickled(mark)}, tmp_path / "trap.bin")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    write(tmp_path / "config.json", **{"architecture": "vit_tiny_patch16_224", "num_classes": 3, **changed})
    with pytest.raises(BackboneError):
        load(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        {"arrow_config": {}},
        {"peft_type": "XLORA", "adapters": {"0": "./other"}, "hidden_size": 8},
    ],
)
def test_an_adapter_names_no_modules_and_no_other_adapters(
    copied: Path, tmp_path: Path, mark: Path, changed: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peftlab.adapters._peft import load_peft

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(module(mark))
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder / "adapter_config.json", **{"peft_type": "LORA", "r": 1, "target_modules": ["query"], **changed})
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    torch.save({"x": Pickled(mark)}, folder / "adapter_model.bin")
    with pytest.raises(PeftlabError):
        load_peft(load(copied).module, folder)
    assert not mark.exists() and "evil" not in sys.modules


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_damage_even_with_its_own_manifest(tmp_path: Path, mark: Path, name: str) -> None:
    """Whoever may write the checkpoint may also write its manifest."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"weights": {"a": torch.ones(2)}})
    checkpoints.save(2, {"weights": {"a": torch.ones(2)}})
    content = {entry.name: entry.read_bytes() for entry in (tmp_path / "checkpoints" / "step-00000002").iterdir()}

    def poisoned(folder: Path) -> None:
        for other in ("tensors.safetensors", "state.json"):
            (folder / other).write_bytes(pickled(mark) if other == name else content[other])
        torch.save({"x": Pickled(mark)}, folder / "optimizer.pt")

    shutil.rmtree(tmp_path / "checkpoints" / "step-00000002")
    commit_folder(tmp_path / "checkpoints" / "step-00000002", poisoned)
    found = checkpoints.latest()
    assert found is not None and found[0] == 1 and "damaged" in found[2][0]
    assert not mark.exists()


def test_a_study_cannot_switch_remote_code_on() -> None:
    text = """study: s
backbone: bundled:vit-nano
task: {{kind: image-classification, data: digits{task}}}
seeds: [0]
train: {{epochs: 1{train}}}
arms: {{a: {{adapter: full{arm}}}}}
{top}
"""
    key = ", trust_remote_code: true"
    for place in ({"train": key}, {"top": "trust_remote_code: true"}):
        with pytest.raises(StudyError, match="trust_remote_code"):
            validate_study(parse_yaml(text.format(**{"task": "", "train": "", "arm": "", "top": "", **place})))
    from peftlab.registry import create

    for kind, spec in (("task", {"kind": "image-classification", "data": "digits"}), ("adapter", {"name": "lora"}),
                       ("quantizer", {"name": "bnb"}), ("data", {"name": "datasets", "path": "."})):  # fmt: skip
        with pytest.raises(StudyError, match="trust_remote_code"):
            create(kind, {**spec, "trust_remote_code": True}, key="kind" if kind == "task" else "name", where=kind)
    with pytest.raises(StudyError, match="trust_remote_code"):
        validate_study(parse_yaml(text.format(task="", train="", arm=key, top="")))


def test_a_data_folder_brings_no_code(tmp_path: Path, mark: Path) -> None:
    """Before version 4 the datasets library ran ``<folder>/<folder>.py``."""
    from peftlab.tasks.text.datasets import TextDatasets

    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(module(mark))
    (folder / "train.csv").write_text("text,label\na,0\nb,1\n")
    with contextlib.suppress(PeftlabError):
        TextDatasets(path=str(folder)).read()
    assert not mark.exists()
