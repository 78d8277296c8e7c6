"""A run that fell back and is continued goes on with the attempt that it fell back to, and ends as one that was left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import RecordError, Stopped
from peftlab.execution.answered import Answered
from peftlab.execution.child import _make_ready
from peftlab.execution.fallback import Attempt
from peftlab.execution.protocol import Channel, WorkerOptions
from peftlab.execution.worker import Run
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import FALLBACK, RunFolder
from peftlab.registry import create
from peftlab.study.schema import Train
from peftlab.training.loop import Trainer
from peftlab.training.spent import Spent
from tests.execution.test_fused_record import After
from tests.execution.test_worker import backbone, config, folder, light_fork_server, same_record  # noqa: F401

BROKEN = 5  #: the step from which on float16 has no finite loss
FLAG = f"not finite in float16 in step {BROKEN}: run again in float32"


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Trainer._loss

    def loss(self: Trainer, batch: Any) -> torch.Tensor:
        bad = self.precision == "float16" and self.step >= BROKEN - 1
        return plain(self, batch) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(Trainer, "_loss", loss)


@pytest.fixture
def wanted(backbone: str) -> RunConfig:  # noqa: F811
    return config(
        backbone, {"name": "lora"}, epochs=0.5, evaluate_every=0.1, precision="float16", on_non_finite="higher-precision"
    )


@pytest.fixture
def options(tmp_path: Path) -> WorkerOptions:
    return WorkerOptions(cache=tmp_path / "cache", device="cpu", checkpoint_every_s=1e9, checkpoint_every_steps=2)


def go(run: RunFolder, wanted: RunConfig, options: WorkerOptions, steps: int = 10_000) -> bool:
    """Whether it came to its end within so many steps."""
    run.create(wanted)
    stop: Any = After(steps)
    try:
        Run(wanted, run, options, Channel(None), stop).execute()
    except Stopped:
        return False
    return True


@pytest.mark.usefixtures("overflowing")
@pytest.mark.parametrize("left", [[3], [BROKEN + 4], [2, 4, 4], [BROKEN + 1, 1]], ids=str)
def test_continued_in_any_attempt_it_ends_as_one_left_alone(
    tmp_path: Path, wanted: RunConfig, options: WorkerOptions, left: list[int]
) -> None:
    """``left``: after how many steps each of its lives is stopped; the lines of the attempt given up are nowhere."""
    whole, parted = (folder(tmp_path / name).run(wanted) for name in ("whole", "parted"))
    assert go(whole, wanted, options)
    for steps in left:
        assert not go(parted, wanted, options, steps)
    assert go(parted, wanted, options)
    same_record(whole, parted)
    first, second = (run.read_json(FALLBACK) for run in (parted, whole))
    spent = [answer.pop("spent") for answers in (first, second) for answer in answers["answers"]]
    assert first == second
    results = parted.results()
    assert results is not None and results.flags == [FLAG]
    assert results.time["given_up"] == spent[0]["given_up"]
    assert results.time["total_s"] > spent[0]["total_s"] + results.time["train_s"], "of all attempts; of the last"
    lines = [(line.step, line.split) for line in parted.metrics()]
    assert len(lines) == len({*lines})
    assert not [*parted.checkpoints.rglob("*")], "checkpoints of an attempt that was given up"


ATTEMPT = Attempt(
    device=torch.device("cpu"), precision="float16", train=Train(batch_size=32), quantizer=create("quantizer", "none")
)


def changed(**changes: Any) -> Attempt:
    return dataclasses.replace(ATTEMPT, **changes)


@pytest.mark.parametrize(
    "following",
    [
        changed(precision="float32"),
        changed(train=Train(batch_size=16, effective_batch_size=32)),
        changed(device=torch.device("cpu"), precision="float32"),
        changed(quantizer=create("quantizer", {"name": "bnb", "bits": 4, "compute_dtype": "float32"}), again=True),
    ],
    ids=["precision", "batch", "device", "quantizer"],
)
def test_an_attempt_comes_back_as_it_was_written(run: RunFolder, following: Attempt) -> None:
    assert Answered(run, ATTEMPT).last(Spent()) == (ATTEMPT, [])
    Answered(run, ATTEMPT).add(ATTEMPT, "a flag", following, {})
    found, flags = Answered(run, ATTEMPT).last(Spent())
    assert (found.name, found.device, found.precision, found.train) == (
        following.name, following.device, following.precision, following.train,
    )  # fmt: skip
    assert found.again == following.again
    assert found.quantizer is not None and following.quantizer is not None
    assert found.quantizer.spec() == following.quantizer.spec()
    assert flags == ["a flag"]


def test_answers_add_up_and_are_of_their_first_attempt_only(run: RunFolder) -> None:
    once = changed(train=Train(batch_size=16, effective_batch_size=32))
    twice = changed(train=Train(batch_size=8, effective_batch_size=32))
    Answered(run, ATTEMPT).add(ATTEMPT, "one", once, {})
    Answered(run, ATTEMPT).add(once, "two", twice, {})
    found, flags = Answered(run, ATTEMPT).last(Spent())
    assert (found.train.batch_size, flags) == (8, ["one", "two"])
    elsewhere = changed(precision="float32")
    assert Answered(run, elsewhere).last(Spent()) == (elsewhere, [])
    Answered(run, elsewhere).add(elsewhere, "three", once, {})
    assert [answer["flag"] for answer in json.loads((run.path / FALLBACK).read_text())["answers"]] == ["three"]


@pytest.mark.parametrize("left", [True, False], ids=["with a checkpoint", "without"])
def test_a_failed_run_that_is_tried_again_goes_on_or_begins_with_its_first_attempt(
    run: RunFolder, wanted: RunConfig, left: bool
) -> None:
    """Memory that others held then may be free now; what was trained is not thrown away."""
    once = changed(train=Train(batch_size=16, effective_batch_size=32))
    Answered(run, ATTEMPT).add(ATTEMPT, "a flag", once, {})
    if left:
        (run.checkpoints / once.name / "step-00000002").mkdir(parents=True)
    _make_ready(run, wanted.model_dump_json(), retry="")
    assert Answered(run, ATTEMPT).last(Spent())[1] == ["a flag"], "continued, not tried again"
    _make_ready(run, wanted.model_dump_json(), retry="of an error")
    assert Answered(run, ATTEMPT).last(Spent())[1] == (["a flag"] if left else [])
    assert (run.path / "fallback-1.json").exists() != left


def test_a_damaged_file_is_told(run: RunFolder) -> None:
    (run.path / FALLBACK).write_text("{")
    with pytest.raises(RecordError, match="not readable"):
        Answered(run, ATTEMPT).last(Spent())


@pytest.fixture
def run(tmp_path: Path, wanted: RunConfig) -> RunFolder:
    return folder(tmp_path / "of").run(wanted).create(wanted)
