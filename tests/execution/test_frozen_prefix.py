"""What a run does about its frozen prefix: decided once, recorded with the reason, kept when the run goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peftlab.errors import RecordError, Stopped
from peftlab.execution.fallback import Attempt
from peftlab.execution.frozen_prefix import FrozenPrefix
from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Train
from peftlab.tasks._images import LAYOUT
from peftlab.tasks.image_classification import ImageClassification
from peftlab.training.assemble import Ingredients
from peftlab.training.prefix_task import PrefixTask
from tests.faults import inject

TASK = {"kind": "image-classification", "data": "digits", "train_size": 120, "validation_size": 40, "test_size": 40}
PROBE, TOP = {"name": "linear-probe"}, {"name": "lora", "rank": 4, "targets": "q,v,blocks:2-3"}
BACKBONE = "bundled:vit-nano"


@pytest.fixture(scope="module", autouse=True)
def light_fork_server() -> None:
    """Here the real fork server is wanted, with everything preloaded."""


def config(adapter: dict[str, Any], **changes: Any) -> RunConfig:
    train = Train(**{"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, **changes.pop("train", {})})
    known: dict[str, Any] = {
        "study": "prefix",
        "arm": adapter["name"],
        "label": adapter["name"],
        "slug": adapter["name"],
        "backbone": BACKBONE,
        "backbone_fingerprint": "nano",
        "task": TASK,
        "data_fingerprint": "digits",
        "adapter": adapter,
        "quantizer": {"name": "none"},
        "train": train.model_dump(mode="json"),
        "seed": 0,
    }
    return RunConfig(**{**known, **changes})


class Begun:
    """A run as far as it has to be, to ask what it does about its prefix."""

    def __init__(self, tmp_path: Path, wanted: RunConfig, *, waiting: Callable[[], None] = lambda: None, **options: Any) -> None:
        folder = RunFolder(tmp_path / "run").make()
        self.path = folder.path
        self.frozen = FrozenPrefix(wanted, folder, WorkerOptions(cache=tmp_path / "cache", **options), waiting)
        parts = Ingredients.of(
            backbone=wanted.backbone,
            task=wanted.task,
            adapter=wanted.adapter,
            allocator=wanted.allocator,
            quantizer=wanted.quantizer,
        )
        self.task = parts.task.prepare(parts.preprocessing(), tmp_path / "cache")
        splits = self.task.splits(0)
        attempt = Attempt(device=torch.device("cpu"), precision="float32", train=Train.model_validate(wanted.train))
        self.name = attempt.name
        self.adapted = parts.build(self.task.info.outputs, 0)
        self.cut, self.given = self.frozen.begin(attempt, parts, self.task, splits, self.adapted)

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.path / "prefix.json").read_text())

    def checkpoint(self) -> None:
        (self.path / "checkpoints" / self.name).mkdir(parents=True)


def test_what_was_done_is_in_the_record(tmp_path: Path) -> None:
    run = Begun(tmp_path, config(TOP))
    assert isinstance(run.given, PrefixTask) and run.cut is not run.adapted
    record = run.record
    (file,) = record["files"]
    assert (record["used"], record["cut"], record["blocks"]) == (True, "block 2", 2)
    assert file["filled_here"] and file["fill_s"] > 0 and file["by"].startswith("lora seed 0 (") and file["examples"] == 160
    assert file["mb"] == pytest.approx(160 * 17 * 96 * 4 / 1e6, abs=1e-3)
    assert run.frozen.flags == ["time without blocks 0-1, computed once and shared"]
    again = Begun(tmp_path / "again", config(TOP, seed=1))
    assert Begun(tmp_path / "again", config(TOP, seed=2)).record["files"][0]["by"] == again.record["files"][0]["by"]
    assert not Begun(tmp_path / "again", config(TOP, seed=3)).record["files"][0]["filled_here"]


def test_hidden_states_of_images_that_were_read_otherwise_are_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageClassification, "layout", LAYOUT - 1)
    assert Begun(tmp_path, config(PROBE)).record["files"][0]["filled_here"]
    monkeypatch.undo()
    (file,) = Begun(tmp_path, config(PROBE, seed=1)).record["files"]
    assert file["filled_here"] and ImageClassification.layout == LAYOUT


GROUPWISE = {"name": "groupwise", "type": "int4", "group_size": 32}
REFUSED = {
    "augmentation": (config(PROBE, task={**TASK, "augmentation": "crop"}), {}),
    "schedule": (config(TOP, quantizer={**GROUPWISE, "schedule": "linear"}), {}),
    "switched off": (config(PROBE), {"prefix_cache_mb": 0.0}),
    "more than the 0 MB": (config(PROBE), {"prefix_cache_mb": 0.01}),
    "too little": (config(PROBE, predicted={"prefix": {"why": "predicted to save 0.1 s in 1 run: too little"}}), {}),
    "is trained": (config({"name": "full"}), {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_goes_the_ordinary_way_and_says_why(tmp_path: Path, why: str) -> None:
    wanted, options = REFUSED[why]
    run = Begun(tmp_path, wanted, **options)
    assert run.given is run.task and run.cut is run.adapted
    assert not run.record["used"] and why in run.record["why"]
    assert run.frozen.flags == []
    assert not list((tmp_path / "cache").glob("prefixes/*.rows"))


def test_a_quantizer_without_a_schedule_is_no_obstacle(tmp_path: Path) -> None:
    assert Begun(tmp_path, config(TOP, quantizer=GROUPWISE)).record["used"]


def test_a_run_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    with_it = Begun(tmp_path / "a", config(PROBE))
    with_it.checkpoint()
    assert Begun(tmp_path / "a", config(PROBE), prefix_cache_mb=0.0).record["used"]
    for file in (tmp_path / "a" / "cache" / "prefixes").glob("*.rows"):
        file.unlink()
    assert Begun(tmp_path / "a", config(PROBE), prefix_cache_mb=0.0).record["files"][0]["filled_here"]
    without = Begun(tmp_path / "b", config(PROBE), prefix_cache_mb=0.0)
    without.checkpoint()
    assert Begun(tmp_path / "b", config(PROBE)).record == without.record
    older = Begun(tmp_path / "c", config(PROBE))
    older.checkpoint()
    (older.path / "prefix.json").unlink()  # from before there were prefixes
    assert "begun without" in Begun(tmp_path / "c", config(PROBE)).record["why"]


def test_a_run_that_was_begun_with_hidden_states_never_goes_on_without(tmp_path: Path) -> None:
    run = Begun(tmp_path, config(PROBE))
    run.checkpoint()
    folder = tmp_path / "cache" / "prefixes"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(RecordError, match="begun with hidden states"):
        Begun(tmp_path, config(PROBE))
    assert run.record["used"], "nothing is forgotten"


def test_a_stop_is_heard_while_hidden_states_are_computed(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        Begun(tmp_path, config(PROBE), waiting=stop)
    assert not list((tmp_path / "cache" / "prefixes").glob("*.rows"))


def results_of(path: Path, wanted: RunConfig, options: WorkerOptions, stop_at: int = 0) -> Any:
    folder = ResultsFolder(path).open_or_create("study: prefix\n")
    if stop_at:
        asked = {"fault": "ask_to_stop", "step": stop_at, "number": int(signal.SIGINT), "starter": os.getpid()}
        inject.order(path).write_text(json.dumps(asked))
    execute(folder, [wanted], jobs=1, options=options, listener=NullListener(), target="tests.faults.inject:main")
    return folder.run(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [PROBE, TOP], ids=lambda adapter: adapter["name"])
def test_digits_from_end_to_end(tmp_path: Path, adapter: dict[str, Any]) -> None:
    wanted = config(adapter, train={"epochs": 4})
    options = WorkerOptions(cache=tmp_path / "cache")
    ordinary = results_of(tmp_path / "a", wanted, WorkerOptions(cache=tmp_path / "cache", prefix_cache_mb=0.0))
    shared = results_of(tmp_path / "b", wanted, options)
    cut = results_of(tmp_path / "c", wanted, options, stop_at=20)
    assert cut.status() == "interrupted"
    for file in (tmp_path / "cache" / "prefixes").glob("*.rows"):
        file.unlink()
    cut = results_of(tmp_path / "c", wanted, options)
    one, two, three = (run.results() for run in (ordinary, shared, cut))
    assert "prefix" not in one.time and two.time["prefix"]["used"] and not one.flags
    assert two.flags[-1].startswith("time without ")
    assert two.metrics["test"]["loss"] == pytest.approx(one.metrics["test"]["loss"], rel=1e-3)
    assert two.metrics == {split: pytest.approx(found, rel=2e-3, abs=1e-2) for split, found in one.metrics.items()}
    assert three.resumed == 1 and three.metrics == two.metrics
    weights = [load_file(next(run.adapter.glob("*.safetensors"))) for run in (ordinary, shared, cut)]
    for name, tensor in weights[1].items():
        assert float((tensor - weights[0][name]).abs().max()) <= 1e-3 * float(weights[0][name].abs().max())
        assert torch.equal(tensor, weights[2][name])
    assert {file["examples"] for file in shared.read_json("prefix.json")["files"]} == {160, 40}
    predicted = [np.load(run.path / "predictions.npz") for run in (shared, cut)]
    assert all((predicted[0][key] == predicted[1][key]).all() for key in predicted[0].files)
