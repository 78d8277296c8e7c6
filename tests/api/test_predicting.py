"""Predictions equal the run's own model on the run's own pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peftlab import api
from peftlab.api._model_folder import load_adapted
from peftlab.api.exporting import preprocessing_of
from peftlab.errors import DataError, RecordError
from peftlab.registry import create
from tests.api.conftest import Trained


@pytest.fixture(scope="module")
def models(trained: Trained, trained_timm: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, (where, merged) in {
        "adapter": (trained, False), "merged": (trained, True), "timm": (trained_timm, False), "timm-merged": (trained_timm, True)
    }.items():  # fmt: skip
        api.export(where.folder, "lora", root / name, merged=merged)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize("name", ["adapter", "merged", "timm", "timm-merged"])
def test_digits_as_files_get_the_labels_of_the_run(
    name: str, models: dict[str, Path], trained: Trained, trained_timm: Trained, cache: Path, tmp_path: Path
) -> None:
    """The study's own images, written as PNG files, go the same way as in training."""
    from peftlab.api._model_folder import Exported

    config = Exported.read(models[name]).config
    task = create("task", config.task, key="kind")
    examples, prepared = task.source().read(), task.prepare(preprocessing_of(config), cache)
    chosen = prepared.splits(0).test[:40]
    for index in chosen:
        Image.fromarray(np.asarray(examples.decode(int(index)))).save(tmp_path / f"{index:05d}.png")
    where = trained_timm if name.startswith("timm") else trained
    _, backbone, module = load_adapted(config, where.run("lora", config.seed).adapter, 10)
    with torch.inference_mode():
        logits = backbone.outputs(module, prepared.inputs(prepared.batch(chosen)))
    found = api.predict(models[name], [tmp_path]).as_dict()["predictions"]
    order = {int(Path(entry["file"]).stem): entry for entry in found}
    assert [order[int(index)]["label"] for index in chosen] == [str(int(k)) for k in logits.argmax(1)]
    assert len(set(logits.argmax(1).tolist())) > 4  # several labels, or the test would say little
    confidence = [order[int(index)]["confidence"] for index in chosen]
    assert confidence == pytest.approx(logits.double().softmax(1).max(1).values.tolist(), rel=1e-3)
    assert all(len(entry["top"]) == 3 for entry in found)


def test_corrupt_files_are_named_and_the_others_labelled(models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "in")
    whole = (tmp_path / "in" / "03.png").read_bytes()
    (tmp_path / "in" / "03.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "empty.jpg").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("no image, and not asked for")
    answer = api.predict(models["adapter"], [tmp_path / "in"])
    assert sorted(Path(entry["file"]).name for entry in answer["unreadable"]) == ["03.png", "empty.jpg"]
    assert len(answer["predictions"]) == 11
    assert answer.exit_code == DataError.exit_code
    assert api.predict(models["adapter"], pictures).exit_code == 0


def test_batches_do_not_change_the_answer(models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    one = api.predict(models["merged"], [pictures / "07.png"])["predictions"][0]
    for number in range(40):
        shutil.copy(pictures / "07.png", tmp_path / f"{number}.png")
    many = api.predict(models["merged"], [tmp_path])["predictions"]
    assert len(many) == 40
    assert all(entry["confidence"] == pytest.approx(one["confidence"], rel=1e-5) for entry in many)


def test_bad_inputs_and_folders(models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        api.predict(models["adapter"], [tmp_path / "absent.png"])
    with pytest.raises(DataError, match="no image"):
        api.predict(models["adapter"], [tmp_path])
    with pytest.raises(RecordError, match="no exported model"):
        api.predict(pictures, [pictures])


def test_changed_weights_are_noticed(models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(models["merged"], tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("my own words")
    api.predict(tmp_path / "model", [pictures / "00.png"])
    weights = tmp_path / "model" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(RecordError, match="content changed"):
        api.predict(tmp_path / "model", [pictures / "00.png"])
