"""A tiny real classifier and a tiny real task, small enough to train in a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.nn.hooks import TrainingHook
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients, base_probe
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.listener import Listener
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.precision import Precision
from tests.contracts.tiny import make


class Lines(Listener):
    """Keeps what the loop says."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.saved: list[tuple[int, int]] = []  #: (step, lines told so far) before every checkpoint

    def on_step(self, step: int, total: int, loss: float, rate: float) -> None:
        self.losses.append(loss)

    def on_metrics(self, line: dict[str, Any]) -> None:
        self.lines.append({k: v for k, v in line.items() if k != "time_s"})

    def on_save(self, step: int) -> None:
        self.saved.append((step, len(self.lines)))

    def on_truncate(self, step: int) -> set[tuple[int, str]]:
        self.lines = [line for line in self.lines if line["step"] <= step]
        return {(line["step"], line["split"]) for line in self.lines}


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@dataclasses.dataclass
class Lab:
    """Builds trainers that differ only in what a test says."""

    backbone: str
    cache: Path

    def trainer(  # noqa: PLR0913
        self,
        folder: Path,
        adapter: Any = "lora",
        *,
        seed: int = 0,
        train: dict[str, Any] | None = None,
        cadence: Cadence | None = None,
        listener: Lines | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        hooks: tuple[TrainingHook, ...] = (),
        allocator: Any = None,
        quantizer: Any = "none",
        device: torch.device = torch.device("cpu"),
        precision: Precision = "float32",
    ) -> Trainer:
        spec = {"name": adapter} if isinstance(adapter, str) else adapter
        ingredients = Ingredients.of(
            backbone=self.backbone,
            task={"kind": "image-classification", "data": "digits", "train_size": 90, "validation_size": 30, "test_size": 30},
            adapter=spec,
            allocator=allocator,
            quantizer={"name": quantizer} if isinstance(quantizer, str) else quantizer,
        )
        prepared = ingredients.task.prepare(ingredients.preprocessing(), self.cache)
        defaults = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}
        settings, splits = Train(**{**defaults, **(train or {})}), prepared.splits(seed)
        adapted = ingredients.build(
            prepared.info.outputs, seed, device, look=lambda b: base_probe(b, prepared, splits, settings, seed)
        )
        return Trainer(
            adapted=adapted,
            task=prepared,
            splits=splits,
            train=settings,
            seed=seed,
            device=device,
            precision=precision,
            checkpoints=Checkpoints(folder),
            cadence=cadence or Cadence(seconds=float("inf")),
            hooks=[*adapted.hooks, *hooks],
            listener=listener or Lines(),
            should_stop=should_stop,
        )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bits are the same for the same number of threads; other tests have theirs back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def lab(tiny_backbone: str, cache: Path) -> Lab:
    return Lab(tiny_backbone, cache)


__all__ = ["Lab", "Lines", "one_thread"]
