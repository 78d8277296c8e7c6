"""A run says which of its layers were fused, and goes on as it was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import Stopped
from peftlab.execution.fused_record import FILE
from peftlab.execution.protocol import Channel, WorkerOptions
from peftlab.execution.worker import Run
from peftlab.records.run_folder import RunFolder
from tests.execution.test_worker import backbone, config, folder, light_fork_server, same_record  # noqa: F401

LORA = {"name": "lora", "dropout": 0.1}


class After:
    """Stops a run after so many steps."""

    number = None

    def __init__(self, steps: int) -> None:
        self.left = steps

    def check(self) -> None: ...

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def finish(run: RunFolder, wanted: Any, options: WorkerOptions) -> None:
    run.create(wanted)
    stop: Any = After(10_000)
    Run(wanted, run, options, Channel(None), stop).execute()


def begin(run: RunFolder, wanted: Any, options: WorkerOptions, steps: int = 5) -> None:
    run.create(wanted)
    stop: Any = After(steps)
    with pytest.raises(Stopped):
        Run(wanted, run, options, Channel(None), stop).execute()


@pytest.mark.parametrize("fused", [True, False])
def test_what_was_begun_goes_on_that_way(tmp_path: Path, backbone: str, fused: bool) -> None:  # noqa: F811
    """With dropout the two forms draw other masks: going on the other way would be another run."""
    wanted = config(backbone, LORA, epochs=0.5)
    options = {how: WorkerOptions(cache=tmp_path / "cache", device="cpu", fused=how) for how in (True, False)}
    whole, parted = folder(tmp_path / "whole"), folder(tmp_path / "parted")
    begin(parted.run(wanted), wanted, options[fused])
    for results, how in ((parted, not fused), (whole, fused)):
        finish(results.run(wanted), wanted, options[how])
    same_record(whole.run(wanted), parted.run(wanted))
    results = parted.run(wanted).results()
    assert results is not None
    assert results.resumed == 1
    assert [note for note in results.notes if "as it was begun" in note]
    record = parted.run(wanted).read_json(FILE)
    assert record["asked"] is fused
    assert (record["fused"] > 0, "switched off" in record.get("why", "")) == (fused, not fused)
    assert results.time["fused_layers"] == record["fused"]
    assert record["read_rows"] is fused


def test_why_every_row_is_read_is_said_after_a_continuation_too(tmp_path: Path, backbone: str) -> None:  # noqa: F811
    """The run goes on as it was begun, so that nobody asks again."""
    wanted = config(backbone, {"name": "bottleneck", "width": 4}, epochs=0.5)
    run = folder(tmp_path / "parted").run(wanted)
    options = WorkerOptions(cache=tmp_path / "cache", device="cpu")
    begin(run, wanted, options)
    first = run.read_json(FILE)
    finish(run, wanted, options)
    assert "something acts on" in first["last_block"]
    assert run.read_json(FILE) == first


def test_a_run_from_before_there_was_a_choice_goes_on_plain(tmp_path: Path, backbone: str) -> None:  # noqa: F811
    wanted = config(backbone, LORA, epochs=0.5)
    run = folder(tmp_path / "old").run(wanted)
    options = WorkerOptions(cache=tmp_path / "cache", device="cpu")
    begin(run, wanted, options)
    (run.path / FILE).unlink()
    finish(run, wanted, options)
    assert run.read_json(FILE)["asked"] is False
    assert run.read_json(FILE)["read_rows"] is False


def test_layers_that_somebody_watches_are_told(tmp_path: Path, backbone: str) -> None:  # noqa: F811
    """DyLoRA cuts what passes between the factors: its layers cannot be fused, and the record says why."""
    wanted = config(backbone, "lora", epochs=0.25).model_copy(update={"allocator": {"name": "dylora"}})
    run = folder(tmp_path / "watched").run(wanted)
    finish(run, wanted, WorkerOptions(cache=tmp_path / "cache", device="cpu"))
    record = run.read_json(FILE)
    assert record["fused"] == 0
    assert list(record["left"]) == ["a hook watches its factors"]


def test_a_run_from_before_rows_were_left_out_goes_on_with_all(tmp_path: Path, backbone: str) -> None:  # noqa: F811
    """Its layers are fused all the same: the two are recorded apart."""
    wanted = config(backbone, LORA, epochs=0.5)
    run = folder(tmp_path / "old").run(wanted)
    options = WorkerOptions(cache=tmp_path / "cache", device="cpu")
    begin(run, wanted, options)
    record = run.read_json(FILE)
    assert record.pop("read_rows") is True
    (run.path / FILE).unlink()
    run.write_json(FILE, record)
    finish(run, wanted, options)
    assert run.read_json(FILE)["asked"] is True
    assert run.read_json(FILE)["read_rows"] is False


def test_why_no_rows_are_left_out_is_told(tmp_path: Path, backbone: str) -> None:  # noqa: F811
    wanted = config(backbone, "vpt", epochs=0.25)
    run = folder(tmp_path / "vpt").run(wanted)
    finish(run, wanted, WorkerOptions(cache=tmp_path / "cache", device="cpu"))
    record = run.read_json(FILE)
    assert record["read_rows"] is False
    assert "something acts on" in record["last_block"]


def test_of_a_model_that_was_cut_it_says_what_was_computed(tmp_path: Path, backbone: str) -> None:  # noqa: F811
    """With gradient checkpointing every row is read, also where only the last block is trained, on hidden states from disk."""
    wanted = config(backbone, {**LORA, "targets": ["blocks:1"]}, epochs=0.25, gradient_checkpointing=True)
    run = folder(tmp_path / "cut").run(wanted)
    finish(run, wanted, WorkerOptions(cache=tmp_path / "cache", device="cpu"))
    assert run.read_json("prefix.json")["used"]
    record = run.read_json(FILE)
    assert record["read_rows"] is False and "computed again in the backward pass" in record["last_block"]
