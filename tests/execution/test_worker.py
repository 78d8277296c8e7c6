"""The worker, in processes of its own, and what it leaves. Killed and continued: tests/faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import Channel, Finished, Message, Noted, Started, Step, WorkerOptions
from peftlab.execution.stop import StopFlag
from peftlab.execution.worker import Run
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder
from peftlab.study.schema import Train
from tests.contracts.tiny import make
from tests.execution import targets

TASK = {"kind": "image-classification", "data": "digits", "train_size": 160, "validation_size": 40, "test_size": 40}
#: figures of a record that may differ between two runs of one configuration: what was measured, not what was computed
MEASURED = ("time", "memory", "resumed", "notes")


@pytest.fixture(scope="module", autouse=True)
def light_fork_server() -> None:
    """Here the real fork server is wanted, with everything preloaded."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


def config(backbone: str, adapter: Any = "lora", seed: int = 0, **train: Any) -> RunConfig:
    spec = {"name": adapter} if isinstance(adapter, str) else adapter
    settings = Train(**{"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, **train})
    return RunConfig(
        study="kill",
        arm=spec["name"],
        label=spec["name"],
        slug=spec["name"],
        backbone=backbone,
        backbone_fingerprint="tiny",
        task=TASK,
        data_fingerprint="digits",
        adapter=spec,
        quantizer={"name": "none"},
        train=settings.model_dump(mode="json"),
        seed=seed,
    )


class Killer(NullListener):
    """Sends SIGKILL to the worker once it has passed a given step."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        self.folder, self.step, self.killed, self.resumed_at = folder, step, False, 0

    def message(self, config: RunConfig, message: Message) -> None:
        if isinstance(message, Started):
            self.resumed_at = message.step
        if isinstance(message, Step) and message.step >= self.step and not self.killed:
            holder = self.folder.holder()
            if holder is not None:
                self.killed = True
                os.kill(holder.pid, signal.SIGKILL)


def folder(path: Path) -> ResultsFolder:
    return ResultsFolder(path).open_or_create("study: kill\n")


def outcome(run: RunFolder) -> dict[str, Any]:
    results = run.results()
    assert results is not None
    return {k: v for k, v in results.model_dump(mode="json").items() if k not in MEASURED}


def same_record(one: RunFolder, two: RunFolder) -> None:
    assert outcome(one) == outcome(two)
    lines = [[{k: v for k, v in line.model_dump().items() if k != "time_s"} for line in run.metrics()] for run in (one, two)]
    assert lines[0] == lines[1]
    weights = [load_file(next(run.adapter.glob("*.safetensors"))) for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    predictions = [np.load(run.path / "predictions.npz") for run in (one, two)]
    assert all((predictions[0][key] == predictions[1][key]).all() for key in predictions[0].files)


def test_checkpoints_that_cannot_be_deleted_are_told_when_the_run_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held:
        def clear(self) -> list[str]:
            return ["old checkpoints could not be deleted"]

    class Heard(Channel):
        def __init__(self) -> None:
            self.said: list[Message] = []

        def send(self, message: Message) -> None:
            self.said.append(message)

    class Never(StopFlag):
        def __init__(self) -> None:
            self.number = None

    wanted, heard = config("none"), Heard()
    record = folder(tmp_path).run(wanted).create(wanted)
    run = Run(wanted, record, WorkerOptions(cache=tmp_path / "cache"), heard, Never())
    run.checkpoints = Held()  # pyright: ignore
    monkeypatch.setattr(run, "_results", lambda: targets.results(record.run_id))
    run.execute()
    assert record.status() == "finished"
    assert heard.said == [Noted("old checkpoints could not be deleted"), Finished("completed")]


@pytest.mark.slow
def test_a_run_leaves_a_complete_record(tmp_path: Path, backbone: str) -> None:
    results = folder(tmp_path)
    wanted = config(backbone, epochs=1)
    execute(results, [wanted], jobs=1, options=WorkerOptions(cache=tmp_path / "cache"), listener=NullListener())
    run = results.run(wanted)
    record = run.results()
    assert record is not None
    assert set(record.metrics) == {"validation", "test"} and record.primary_metric == "accuracy"
    assert record.splits == {"train": 160, "validation": 40, "test": 40}
    counts = record.parameters
    assert counts["trainable"] == sum(counts["by_role"].values()) == sum(counts["by_block"].values())
    assert counts["full"] + counts["adapter"] == counts["total"]
    parts = record.memory["measured"]
    assert sum(parts.values()) == pytest.approx(record.memory["measured_peak_mb"], rel=1e-3)
    assert json.loads((run.path / "efficiency.json").read_text())["step_gflop"] > 0
    latency = json.loads((run.path / "merge_equivalence.json").read_text())["latency"]
    timed_s = sum(2 * entry[f"{which}_ms"] for entry in latency for which in ("adapter", "merged")) / 1000
    asked_s = record.time["hooks_s"]["merge_equivalence"]  # all of its work is done when it is asked, at the end
    assert timed_s <= asked_s <= record.time["total_s"], "half of three calls or more take the median or longer"
    assert not run.checkpoints.exists()
    assert (run.adapter / "adapter_config.json").exists()


@pytest.mark.slow
def test_what_is_wrong_with_its_data_is_in_the_record(tmp_path: Path, backbone: str) -> None:
    results = folder(tmp_path)
    wanted = config(backbone, epochs=1).model_copy(update={"task": {**TASK, "test_size": 5}})
    execute(results, [wanted], jobs=1, options=WorkerOptions(cache=tmp_path / "cache"), listener=NullListener())
    record = results.run(wanted).results()
    assert record is not None
    (said,) = record.data_warnings
    assert "no test example" in said and said not in record.notes


@pytest.mark.slow
def test_a_tuning_run_never_sees_test_data(tmp_path: Path, backbone: str) -> None:
    results = folder(tmp_path)
    wanted = config(backbone, epochs=1).model_copy(update={"purpose": "tuning", "evaluate_test": False})
    execute(results, [wanted], jobs=1, options=WorkerOptions(cache=tmp_path / "cache"), listener=NullListener())
    run = results.run(wanted)
    record = run.results()
    assert record is not None and set(record.metrics) == {"validation"}
    assert not (run.path / "predictions.npz").exists() and not (run.path / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are exact where there is glibc")
def test_float_weights_that_were_quantized_do_not_count_as_memory_of_the_run(tmp_path: Path) -> None:
    """They are freed before training; the room that they left in the heap was filled by the tensors of the steps."""
    import timm
    from timm.models import save_for_hf

    sizes: dict[str, Any] = {"embed_dim": 384, "depth": 8, "num_heads": 6, "img_size": 32, "patch_size": 4, "num_classes": 10}
    model: Any = timm.create_model("vit_tiny_patch16_224", **sizes)
    save_for_hf(model, str(tmp_path / "vit"), model_args=sizes, safe_serialization=True)
    weights_mb = sum(parameter.nbytes for parameter in model.blocks.parameters()) / 1e6
    plain = config(str(tmp_path / "vit"), max_steps=6, batch_size=16)
    stored = plain.model_copy(update={"label": "int4", "slug": "int4", "quantizer": {"name": "groupwise"}})
    results, options = folder(tmp_path), WorkerOptions(cache=tmp_path / "cache")
    execute(results, [plain, stored], jobs=1, options=options, listener=NullListener())
    process = [results.run(each).read_json("memory.json")["measured"]["process"] for each in (plain, stored)]
    assert process[1] - process[0] < weights_mb / 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_a_run_with_compiled_steps_and_all_that_watches_it(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step's operations are counted while it goes the ordinary way: compiled there would be none to see."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    plain = config(backbone, epochs=1)
    compiled = plain.model_copy(update={"seed": 0, "predicted": {"compile": True, "peak_mb": 1000.0, "parts_mb": {}}})
    found = {}
    for name, each in {"plain": plain, "compiled": compiled}.items():
        results = ResultsFolder(tmp_path / name).open_or_create("study: kill\n")
        outcome = execute(results, [each], jobs=1, options=WorkerOptions(cache=tmp_path / "cache"), listener=NullListener())
        assert outcome.counts == {"finished": 1}
        found[name] = results.run(each)
    one, other = (run.results() for run in found.values())
    assert one is not None and other is not None
    assert not one.flags and other.flags == ["compiled steps, whose compiling is not in their time"]
    assert json.loads((found["compiled"].path / "compiled.json").read_text())["compiled"] is True
    assert one.metrics["test"]["loss"] == pytest.approx(other.metrics["test"]["loss"], rel=1e-3)
    counts = [json.loads((run.path / "efficiency.json").read_text())["step_gflop"] for run in found.values()]
    assert counts[0] == counts[1] > 0
