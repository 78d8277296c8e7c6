"""A tiny study of each kind of adapter, and what it gives when it is left alone: trained once for all tests here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing.forkserver
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftlab.execution.local import execute
from peftlab.execution.progress import Listener, NullListener, Outcome
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder, verify
from peftlab.study.schema import Train
from tests.contracts.tiny import make
from tests.faults.inject import order
from tools.soak import unlike

TASK = {"kind": "image-classification", "data": "digits", "train_size": 64, "validation_size": 16, "test_size": 16}
#: 16 steps of two micro-batches in two epochs of 8, a checkpoint after every second step; evaluations in mid-epoch too
TRAIN = {"epochs": 2, "batch_size": 4, "effective_batch_size": 8, "learning_rate": 3e-3, "evaluate_every": 0.5}
STEPS, EPOCH, EVERY = 16, 8, 2
NONE = {"name": "none"}
NF4 = {"name": "bnb", "bits": 4, "type": "nf4", "double": True}
SCHEDULE = {"name": "groupwise", "type": "nf4", "group_size": 8, "schedule": "cosine", "start": 0.1, "end": 0.8}
ADALORA = {"name": "adalora", "budget": {"ranks": 6}, "initial_rank": 4, "initial_steps": 2, "final_steps": 4, "every": 2}
#: kind -> adapter, allocator, quantizer; steps 3 to 12 of AdaLoRA and 2 to 12 of QA-LoRA lie within their schedules
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]] = {
    "lora": ({"name": "lora", "dropout": 0.1}, None, NONE),
    "full": ({"name": "full"}, None, NONE),
    "adalora": ({"name": "svd", "targets": "standard", "dropout": 0.1}, ADALORA, NONE),
    "qlora": ({"name": "lora", "rank": 2}, None, NF4),
    "qa-lora": ({"name": "pooled", "rank": 3, "targets": "all-linear"}, None, SCHEDULE),
    "pissa": ({"name": "lora", "init": "pissa"}, None, NONE),
}
WORKER = "tests.faults.inject:main"


@dataclasses.dataclass
class Ground:
    """Where runs are made, and what they should come to."""

    backbone: str
    cache: Path
    quiet: ResultsFolder
    here: ResultsFolder  #: of one test

    def config(self, kind: str = "lora", seed: int = 0, **train: Any) -> RunConfig:
        adapter, allocator, quantizer = KINDS[kind]
        return RunConfig(
            study="faults", arm=kind, label=kind, slug=kind, backbone=self.backbone, backbone_fingerprint="tiny", task=TASK,
            data_fingerprint="digits", adapter=adapter, allocator=allocator, quantizer=quantizer,
            train=Train(**{**TRAIN, "select": "last" if allocator else "best", **train}).model_dump(mode="json"), seed=seed,
        )  # fmt: skip

    def run(
        self,
        *configs: RunConfig,
        fault: dict[str, Any] | None = None,
        folder: ResultsFolder | None = None,
        listener: Listener | None = None,
        **more: Any,
    ) -> Outcome:
        """Whatever is not done yet, failed runs too; with a fault in the process that starts first."""
        folder = folder or self.here
        options = WorkerOptions(cache=self.cache, checkpoint_every_s=1e9, checkpoint_every_steps=EVERY)
        changed = {name: more.pop(name) for name in list(more) if name in WorkerOptions.__dataclass_fields__}
        if fault is not None:
            order(folder.path).write_text(json.dumps(fault))
        settings: dict[str, Any] = {"jobs": 1, "retry_failed": True, "target": WORKER, **more}
        options = dataclasses.replace(options, **changed)
        return execute(folder, list(configs), options=options, listener=listener or NullListener(), **settings)

    def reference(self, config: RunConfig) -> RunFolder:
        """The same run, left alone."""
        run = self.quiet.run(config)
        if run.status() != "finished":
            assert self.run(config, folder=self.quiet).counts == {"finished": 1}, run.error()
        return run

    def ends_well(self, config: RunConfig) -> RunFolder:
        """The run goes on to its end, and is the same as one that was left alone, to the bit."""
        outcome = self.run(config)
        run = self.here.run(config)
        assert outcome.counts == {"finished": 1}, run.error()
        self.same(config)
        assert verify(self.here) == []
        return run

    def same(self, config: RunConfig) -> None:
        assert unlike(self.reference(config), self.here.run(config)) == []

    def killed(self, config: RunConfig, **fault: Any) -> RunFolder:
        """The process of the run dies of the fault, and that is on record."""
        outcome = self.run(config, fault=fault)
        run = self.here.run(config)
        assert [ending.error.get("type") for ending in outcome.endings] == ["WorkerDied"], outcome.endings
        assert "SIGKILL" in outcome.endings[0].error["what"]
        assert run.status() == "failed"
        return run


@pytest.fixture(scope="session")
def ground_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("faults")
    backbone = make("vit", folder / "vit")
    quiet = ResultsFolder(folder / "quiet").open_or_create("study: faults\n")
    yield Ground(str(backbone), folder / "cache", quiet, quiet)
    with contextlib.suppress(AttributeError):
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture
def ground(ground_of_all: Ground, tmp_path: Path) -> Ground:
    return dataclasses.replace(ground_of_all, here=ResultsFolder(tmp_path / "here").open_or_create("study: faults\n"))


def saved(run: RunFolder) -> list[int]:
    """Steps of the checkpoints that are there under their own name."""
    return sorted(int(path.name[5:]) for path in run.checkpoints.glob("*/step-*"))
