"""Faults 9 to 11: a disk that is really full or really read-only. Typed, nothing lost, and on a mended disk the same bits."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peftlab.errors import RecordError
from peftlab.records.store import ResultsFolder, verify
from tests.faults.conftest import EVERY, Ground, saved

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system in memory, where this user may. (Elsewhere tests/records limit the size of files instead.)"""
    mounted: list[Path] = []

    def make(name: str, size: str, *, on: Path | None = None) -> Path:
        place = tmp_path / name
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        if on is not None:
            (place / on.name).touch()
            subprocess.run(["mount", "--bind", place / on.name, on], check=True)
            mounted.append(on)
        return place

    yield make
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", place], check=False)


def on_disk(ground: Ground, disk: Path) -> Ground:
    return dataclasses.replace(ground, here=ResultsFolder(disk / "here").open_or_create("study: faults\n"))


@pytest.mark.parametrize(
    ("step", "leave"),
    [pytest.param(2 * EVERY, 8192, id="09-in-a-checkpoint"), pytest.param(5, 0, id="10-in-the-journal")],
)
def test_09_and_10_the_disk_is_full(ground: Ground, mount: Mount, step: int, leave: int) -> None:
    """Neither the checkpoint nor the error can be written: that is told, and the run goes on from the checkpoint before."""
    ground = on_disk(ground, mount("disk", "8m"))
    config = ground.config()
    outcome = ground.run(config, fault={"fault": "fill_disk", "step": step, "leave": leave})
    error = outcome.endings[0].error
    assert outcome.counts == {"failed": 1} and outcome.exit_code == 1
    assert error["type"] == "RecordError" and "No space left" in error["what"]
    assert "free some disk space" in error["remedy"]
    run = ground.here.run(config)
    assert saved(run) == list(range(EVERY, step, EVERY)), "nothing half written has a checkpoint's name, and none is lost"
    (ground.here.path / "ballast").unlink()
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1


def test_10_the_disk_is_full_for_the_log_only(ground: Ground, mount: Mount) -> None:
    """What libraries print is lost; the run is not."""
    config = ground.config()
    run = ground.here.run(config).create(config)
    log = run.path / "worker.log"
    log.touch()
    mount("small", "4k", on=log)
    outcome = ground.run(config, fault={"fault": "chatter", "step": 3, "characters": 10_000})
    assert outcome.counts == {"finished": 1}, outcome.endings
    assert log.stat().st_size <= 4096
    subprocess.run(["umount", log], check=True)
    ground.same(config)
    assert verify(ground.here) == []


def test_11_a_read_only_folder_is_said_before_anything_runs(ground: Ground, mount: Mount) -> None:
    disk = mount("disk", "8m")
    ground = on_disk(ground, disk)
    config = ground.config()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = sorted(disk.rglob("*"))
    with pytest.raises(RecordError, match="Read-only file system") as raised:
        ground.run(config)
    assert "--output" in raised.value.remedy and str(disk) in raised.value.where
    assert raised.value.exit_code == 6 and sorted(disk.rglob("*")) == before
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    ground.ends_well(config)


def test_11_a_run_that_began_on_a_disk_that_is_read_only_now(ground: Ground, mount: Mount) -> None:
    disk = mount("disk", "8m")
    ground = on_disk(ground, disk)
    config = ground.config()
    ground.killed(config, fault="kill", step=7)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert os.statvfs(disk).f_flag & os.ST_RDONLY
    outcome = ground.run(config)
    assert outcome.counts == {"failed": 1} and outcome.endings[0].error["type"] == "RecordError"
    assert "Read-only" in outcome.endings[0].error["what"]
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1
