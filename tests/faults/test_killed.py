"""Faults 1 to 6, 24 and 25: killed anywhere, a run that goes on ends as one that was left alone, to the bit."""

from __future__ import annotations

import pytest

from peftlab.records.journal import read
from tests.faults.conftest import EPOCH, KINDS, Ground, saved

ACROSS = [pytest.param(kind, marks=[] if kind == "lora" else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", [param for param in ACROSS if param.values != ("pissa",)])
def test_01_sigkill_at_a_step(ground: Ground, kind: str) -> None:
    """In the first proof, between checkpoints, right after one, at the last step. At every step: tests/faults/exhaustive.py."""
    config = ground.config(kind)
    for step in (1, 7, 12, 16):
        run = ground.killed(config, fault="kill", step=step)
        assert all(number <= step for number in saved(run)), "no checkpoint of a step that was not done"
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 3, "the first time there was nothing to go on from"


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        pytest.param("kill_in_weights", [2, 4], id="02-in-the-weights"),
        pytest.param("kill_before_manifest", [2, 4], id="03-before-the-manifest"),
        pytest.param("kill_between_renames", [2, 4], id="04-between-renames"),
    ],
)
def test_02_to_04_sigkill_while_a_checkpoint_is_written(ground: Ground, fault: str, left: list[int]) -> None:
    config = ground.config()
    run = ground.killed(config, fault=fault, number=3)
    assert saved(run) == left, "the third is not there, those before it are"
    assert list(run.checkpoints.glob("*/.step-*")), "its beginnings are"
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1


def test_05_sigkill_while_an_old_checkpoint_is_deleted(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill_in_deletion", number=1)
    assert saved(run) == [2, 4, 6], "the newest was whole before the oldest was touched"
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1 and results.notes == ground.reference(config).results().notes  # pyright: ignore


def test_06_sigkill_during_a_metrics_append_and_19_half_a_line_at_the_end(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill_in_append", number=6)
    journal = run.path / "metrics.jsonl"
    assert not journal.read_bytes().endswith(b"\n"), "half a line"
    whole = read(journal)
    assert len(whole) == 5 and run.error() is not None
    assert ground.here.status_table()[0].step == whole[-1].step
    ground.ends_well(config)


def test_30_a_power_cut_loses_no_line_that_a_checkpoint_relies_on(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="power_cut", step=8)
    assert saved(run) == [4, 6] and read(run.path / "metrics.jsonl")[-1].step == 6, "that of step 7 had time"
    ground.ends_well(config)


def test_30_lines_that_the_disk_lost_all_the_same_are_a_note(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill", step=7)
    journal = run.path / "metrics.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    assert ground.run(config).counts == {"finished": 1}
    results = run.results()
    assert results is not None
    assert [note for note in results.notes if note.startswith("lines of metrics.jsonl are lost, from step 4 to 6")]


@pytest.mark.parametrize("kind", ACROSS)
def test_24_resumed_often_and_25_on_every_kind_of_base(ground: Ground, kind: str) -> None:
    """Twice in one epoch, at the end of one, in mid-accumulation; AdaLoRA between reallocations, QA-LoRA within its schedule."""
    config = ground.config(kind)
    ground.killed(config, fault="kill", step=3)
    ground.killed(config, fault="kill_between_micro_batches", step=6)
    ground.killed(config, fault="kill", step=EPOCH)
    ground.killed(config, fault="kill", step=EPOCH + 1)
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 4
