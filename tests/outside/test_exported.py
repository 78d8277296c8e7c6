"""What `peftlab export` writes, in a fresh process in which peftlab cannot be imported: the same outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peftlab import api
from tests.api.conftest import SIZE, Trained, study_of, train
from tests.api.test_exporting import pixels, run_logits
from tests.tasks.texts import make_bert, sentences, write_sst2

TEXTS = [text for text, _ in sentences(6, seed=9)]


@pytest.fixture(scope="module")
def trained_text(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    """A tiny BERT: LoRA on all layers."""
    root = tmp_path_factory.mktemp("text")
    backbone = make_bert(root / "model")
    study = study_of(backbone, {"lora": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}}}, [0])
    study["task"] = {
        "kind": "text-classification",
        "data": {"name": "sst2", "path": str(write_sst2(root / "sst2", 200, 60))},
    }
    return Trained(train(study, root / "results", cache), backbone)


@pytest.mark.slow
def test_it_gives_the_same_without_peftlab(
    trained: Trained, trained_timm: Trained, trained_text: Trained, pictures: Path, tmp_path: Path
) -> None:
    """Adapters in PEFT, merged models in pipelines of transformers, timm's `create_model` and `load_state_dict`."""
    asked: dict[str, object] = {"texts": TEXTS}
    for name, runs in (("vit", trained), ("timm", trained_timm), ("text", trained_text)):
        asked[name] = str(runs.backbone)
        for form in ("adapter", "merged"):
            asked[f"{name} {form}"] = str(tmp_path / f"{name}-{form}")
            api.export(runs.folder, "lora", tmp_path / f"{name}-{form}", merged=form == "merged")
    # an even margin of the centre crop: transformers and torchvision round odd ones differently (tests/api/test_exporting.py)
    files = [file for file in sorted(pictures.glob("*.png")) if _margin(file) % 2 == 0]
    asked["files"] = [str(file) for file in files]
    assert len(files) >= 5
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    np.save(tmp_path / "pixels.npy", pixels().numpy())
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("stranger.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for name, runs, chosen in (
        ("vit in peft", trained, "vit"),
        ("timm in peft", trained_timm, "timm"),
        ("timm merged", trained_timm, "timm"),
    ):
        seed = _seed(runs, tmp_path / f"{chosen}-adapter")
        wanted = run_logits(runs, "lora", seed)
        assert float((torch.tensor(found[name]) - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max()), name
    ours = {Path(p["file"]).name: p for p in api.predict(tmp_path / "vit-merged", files)["predictions"]}
    for file, (label, score) in zip(files, found["images"], strict=True):
        wanted = {top["label"]: top["confidence"] for top in ours[file.name]["top"]}
        assert score == pytest.approx(wanted[label], abs=3e-3)
        assert score >= max(wanted.values()) - 3e-3
    told = api.predict(tmp_path / "text-adapter", TEXTS)["predictions"]
    assert [label for label, _ in found["texts"]] == [entry["label"] for entry in told]
    for theirs in ([score for _, score in found["texts"]], found["texts in peft"]):
        assert theirs == pytest.approx([entry["confidence"] for entry in told], abs=1e-4)


def _margin(file: Path) -> int:
    """Pixels that the centre crop takes off the longer side."""
    short, long = sorted(Image.open(file).size)
    return int(SIZE * long / short) - SIZE


def _seed(runs: Trained, exported: Path) -> int:
    """Of the run that was exported: the best on validation."""
    run_id = json.loads((exported / "peftlab.json").read_text())["run_id"]
    return next(seed for seed in (0, 1) if runs.run("lora", seed).run_id == run_id)
