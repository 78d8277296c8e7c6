"""What is kept comes back to the bit, the newest first; what is damaged is passed over and named."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from peftlab.errors import RecordError
from peftlab.records.commit import commit_folder
from peftlab.records.manifest import verify_folder
from peftlab.training import checkpoint
from peftlab.training.checkpoint import KEEP, Checkpoints

STATE = {
    "model": {"w": torch.arange(6.0).view(2, 3), "b": torch.zeros(0)},
    "optimizer": {"0": {"exp_avg": torch.ones(2)}},
    "n": 3,
}


def kept(folder: Path, *steps: int) -> Checkpoints:
    found = Checkpoints(folder)
    for step in steps:
        found.save(step, {**STATE, "n": step})
    return found


def there(folder: Path) -> list[int]:
    """Steps of what is there, whole or damaged."""
    return sorted(int(path.name[5:]) for path in folder.iterdir())


def damaged(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"step-{step:08d}" / "tensors.safetensors").write_bytes(b"x")


def held(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """A network disk that keeps files which somebody has open; the folders asked for, in order."""
    remove, asked = shutil.rmtree, []

    def refuse(path: Path, **more: object) -> None:
        asked.append(path.name)
        if path.name in names:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        remove(path, **more)  # pyright: ignore

    monkeypatch.setattr(shutil, "rmtree", refuse)
    return asked


def test_the_newest_comes_back_to_the_bit_and_only_two_stay(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").latest() is None and kept(tmp_path).latest() is None
    checkpoints = kept(tmp_path, 5, 40, 300, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000300", "step-00001000"] and KEEP == 2
    found = checkpoints.latest()
    assert found is not None
    step, state, notes = found
    assert (step, notes, state["n"]) == (1000, [], 1000)
    for name, tensor in STATE["model"].items():
        assert torch.equal(state["model"][name], tensor)
    assert torch.equal(state["optimizer"]["0"]["exp_avg"], torch.ones(2))
    checkpoints.clear()
    checkpoints.clear()
    assert checkpoints.latest() is None and not tmp_path.exists()


def test_a_step_that_is_kept_already_stays_as_it_is(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 7)
    checkpoints.save(7, {"n": 8})
    assert (checkpoints.latest() or (0, {}, []))[1]["n"] == 7


@pytest.mark.parametrize(
    ("tensors", "state"),
    [
        (b"\x00", None),
        (None, b"{"),
        (None, b"[]"),
        (None, b'{"step": 9}'),
        (None, b'{"step": 9, "values": 3}'),
        (None, b"[" * 100_000),
        (None, b"\xff"),
    ],
    ids=["tensors", "json", "list", "no-values", "number", "deep", "no-text"],
)
def test_what_cannot_be_read_though_it_is_whole_is_passed_over(
    tmp_path: Path, tensors: bytes | None, state: bytes | None
) -> None:
    """Written whole, by a program that was wrong: the manifest agrees."""
    checkpoints = kept(tmp_path, 3, 9)
    newest = tmp_path / "step-00000009"
    texts = {path.name: path.read_bytes() for path in newest.iterdir()}
    texts |= {"tensors.safetensors": tensors} if tensors is not None else {}
    texts |= {"state.json": state} if state is not None else {}

    def write(folder: Path) -> None:
        for name in ("tensors.safetensors", "state.json"):
            (folder / name).write_bytes(texts[name])

    commit_folder(newest, write)
    assert verify_folder(newest) == []
    found = checkpoints.latest()
    assert found is not None and found[0] == 3 and found[1]["n"] == 3
    assert len(found[2]) == 1 and "step-00000009 is damaged and was passed over: " in found[2][0]


def test_damage_is_named_and_without_any_whole_one_a_run_begins_anew(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, 3, 9)
    for number, step in enumerate((9, 3), start=1):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text(json.dumps({}))
        found = checkpoints.latest()
        assert found is not None
        assert [note.split(" is ")[0] for note in found[2][:number]] == [f"checkpoint step-0000000{n}" for n in (9, 3)[:number]]
        assert found[0] == (3 if number == 1 else 0)
    assert found[1] == {} and found[2][-1] == "no checkpoint was usable: restarted from step 0"


def test_after_a_restart_what_is_new_stays_though_damaged_ones_have_higher_steps(tmp_path: Path) -> None:
    kept(tmp_path, 8, 9)
    damaged(tmp_path, 8, 9)
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.latest() or (None,))[0] == 0
    assert there(tmp_path) == [8, 9], "until a checkpoint holds the notes on them, they are what tells"
    for step, left in ((1, [1]), (2, [1, 2]), (3, [2, 3])):
        checkpoints.save(step, {**STATE, "n": step})
        assert there(tmp_path) == left
    assert (Checkpoints(tmp_path).latest() or (0, {}, ["none"]))[::2] == (3, [])


def test_a_damaged_one_goes_and_no_sound_one_for_it(tmp_path: Path) -> None:
    kept(tmp_path, 6, 8, 12)
    damaged(tmp_path, 12)
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.latest() or (None,))[0] == 8
    checkpoints.save(10, STATE)
    assert there(tmp_path) == [8, 10]


def test_the_step_of_a_damaged_one_is_written_anew(tmp_path: Path) -> None:
    kept(tmp_path, 8, 9)
    damaged(tmp_path, 9)
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.latest() or (None,))[0] == 8
    checkpoints.save(9, {**STATE, "n": 90})
    assert there(tmp_path) == [8, 9] and verify_folder(tmp_path / "step-00000009") == []
    assert (checkpoints.latest() or (0, {}))[1]["n"] == 90


def test_nothing_is_deleted_for_a_checkpoint_that_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, or gives back something else than was written."""
    kept(tmp_path, 8, 9)
    damaged(tmp_path, 9)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.latest()

    def full(target: Path, _write: object) -> None:
        raise RecordError("No space left on device", where=str(target), remedy="")

    def forgetful(target: Path, write: object) -> None:
        commit_folder(target, write)  # pyright: ignore[reportArgumentType]
        damaged(tmp_path, int(target.name[5:]))

    for step, disk, said in ((10, full, "No space"), (11, forgetful, "tensors.safetensors: ")):
        monkeypatch.setattr(checkpoint, "commit_folder", disk)
        with pytest.raises(RecordError, match=said):
            checkpoints.save(step, STATE)
        assert {8, 9} <= set(there(tmp_path))
    assert (Checkpoints(tmp_path).latest() or (None,))[0] == 8


def test_a_checkpoint_that_cannot_be_deleted_is_a_note_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = kept(tmp_path, 1, 2)
    asked = held(monkeypatch, "step-00000001", "step-00000002", tmp_path.name)
    said = [checkpoints.save(step, STATE) for step in (3, 4, 5)]
    assert said == [
        ["old checkpoints could not be deleted (step-00000001: Directory not empty); `peftlab gc` does it later"],
        [],
        [],
    ]
    assert there(tmp_path) == [1, 2, 4, 5] and asked.count("step-00000001") == 3
    monkeypatch.undo()
    checkpoints.save(6, STATE)
    assert there(tmp_path) == [5, 6]


def test_damage_that_cannot_be_deleted_pushes_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, 8, 9)
    damaged(tmp_path, 8, 9)
    held(monkeypatch, "step-00000009")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.latest()
    for step in (1, 2, 3):
        checkpoints.save(step, STATE)
    assert there(tmp_path) == [2, 3, 9]


def test_checkpoints_of_a_finished_run_that_cannot_be_deleted_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = kept(tmp_path / "first", 1)
    held(monkeypatch, "first")
    assert "first: Directory not empty" in checkpoints.clear()[0]
    monkeypatch.undo()
    assert checkpoints.clear() == [] and not (tmp_path / "first").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a list of Linux")
def test_what_is_loaded_holds_no_file(tmp_path: Path) -> None:
    """Files that are mapped stay on a network disk when they are deleted, and their folder with them."""
    found = kept(tmp_path, 5).latest()
    assert found is not None and torch.equal(found[1]["model"]["w"], STATE["model"]["w"])
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
