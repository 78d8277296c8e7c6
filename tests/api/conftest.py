"""Real runs, fifty optimizer steps each, of tiny random vision transformers on the digits: made once per session."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder
from peftlab.study.expand import cells
from peftlab.study.load import dump, validate_study

SIZE = 32


@dataclasses.dataclass(frozen=True)
class Trained:
    """A results folder with finished runs."""

    folder: Path
    backbone: Path

    def run(self, label: str, seed: int = 0) -> RunFolder:
        configs = ((run, run.config()) for run in ResultsFolder(self.folder).runs("evaluation"))
        return next(run for run, config in configs if (config.label, config.seed) == (label, seed))


def study_of(backbone: Path, arms: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    return {
        "study": "tiny",
        "question": "Does the api work?",
        "backbone": str(backbone),
        "task": {"kind": "image-classification", "data": "digits", "train_size": 200, "validation_size": 60, "test_size": 100},
        "seeds": seeds,
        "train": {"epochs": 4, "batch_size": 16, "learning_rate": 0.005},
        "arms": arms,
        "analysis": {"baseline": next(iter(arms)), "margin": {"absolute": 0.05}},
    }


def train(study: dict[str, Any], folder: Path, cache: Path) -> Path:
    """Every run of a study, through the worker that peftlab itself uses."""
    from peftlab.execution.protocol import WorkerOptions
    from peftlab.execution.worker import main
    from peftlab.training.assemble import Ingredients

    parsed = validate_study(study)
    results = ResultsFolder(folder).open_or_create(dump(parsed))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    for cell in cells(parsed):
        parts = Ingredients.of_cell(cell)
        for seed in parsed.seeds:
            config = RunConfig(
                study=parsed.study,
                arm=cell.arm,
                label=cell.label,
                slug=cell.slug,
                factors=dict(cell.factors),
                backbone=cell.backbone,
                backbone_fingerprint=parts.source.fingerprint(cell.backbone),
                task=parts.task.spec("kind"),
                data_fingerprint=parts.task.fingerprint(),
                adapter=parts.adapter.spec(),
                quantizer=parts.quantizer.spec(),
                quantize=cell.quantize,  # pyright: ignore
                train=cell.train.model_dump(mode="json"),
                seed=seed,
            )
            run = results.run(config).create(config)
            with run.lease():
                main(config.model_dump_json(), str(run.path), WorkerOptions(cache=cache, device="cpu"))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """peftlab's cache is the one that the runs were made with."""
    monkeypatch.setenv("PEFTLAB_CACHE", str(cache))


@pytest.fixture
def study(trained: Trained, tmp_path: Path) -> Trained:
    """A copy of ``trained`` that a test may add to."""
    shutil.copytree(trained.folder, tmp_path / "tiny")
    return Trained(tmp_path / "tiny", trained.backbone)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    """A transformers ViT: LoRA and linear probe, two seeds."""
    from transformers import ViTConfig, ViTForImageClassification

    root = tmp_path_factory.mktemp("transformers")
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIZE,
        patch_size=8,
        num_labels=3,
        initializer_range=0.2,  # random features that tell images apart
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        ViTForImageClassification(config).save_pretrained(root / "vit")
    arms = {
        "probe": {"adapter": "linear-probe"},
        "lora": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}},
    }
    return Trained(train(study_of(root / "vit", arms, [0, 1]), root / "tiny", cache), root / "vit")


@pytest.fixture(scope="session")
def trained_timm(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    """A timm ViT, whose q, k and v are one fused layer: LoRA on q and v, at another image size than the weights were made for."""
    import timm
    from timm.models import save_for_hf

    root = tmp_path_factory.mktemp("timm")
    shape = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    save_for_hf(model, root / "vit", model_args=shape, safe_serialization=True)
    study = study_of(root / "vit", {"lora": {"adapter": {"name": "lora", "rank": 4}}}, [0])
    study["task"]["image_size"] = SIZE
    return Trained(train(study, root / "tiny", cache), root / "vit")


#: adapters whose update is neither a PEFT adapter nor the head alone, and can be merged
OWN = {
    "ssf": {"adapter": "ssf"},
    "fact-tt": {"adapter": {"name": "fact", "form": "tt", "rank": 4}},
    "fact-tk": {"adapter": {"name": "fact", "form": "tk", "rank": 4}},
}


@pytest.fixture(scope="session")
def trained_own(trained: Trained, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    """The transformers ViT of ``trained``."""
    folder = tmp_path_factory.mktemp("own") / "tiny"
    return Trained(train(study_of(trained.backbone, OWN, [0]), folder, cache), trained.backbone)


@pytest.fixture(scope="session")
def trained_own_timm(trained_timm: Trained, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    """The timm ViT of ``trained_timm``, q, k and v fused."""
    study = study_of(trained_timm.backbone, OWN, [0])
    study["task"]["image_size"] = SIZE
    return Trained(train(study, tmp_path_factory.mktemp("own-timm") / "tiny", cache), trained_timm.backbone)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawings of several sizes, one of them grey, and a file that is no image."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    for number in range(12):
        height, width = random.integers(20, 90, size=2)
        coarse = Image.fromarray(random.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)).resize((int(width), int(height)))
        (coarse.convert("L") if number == 5 else coarse).save(folder / f"{number:02d}.png")
    return folder
