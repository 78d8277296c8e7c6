"""The machine as predictions see it, really measured once in a process of its own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from peftlab.errors import PeftlabError
from peftlab.planning import machine
from peftlab.planning.machine import Machine
from peftlab.planning.trace import Operation


@pytest.mark.slow
def test_the_machine_is_measured_once_and_kept(tmp_path: Path) -> None:
    first = Machine.here(tmp_path, device="cpu", worker="peftlab.registry")
    (kept,) = tmp_path.glob("machine-*.json")
    written = kept.stat().st_mtime_ns
    second = Machine.here(tmp_path, device="cpu", worker="peftlab.registry")
    assert kept.stat().st_mtime_ns == written
    assert second.process_mb == first.process_mb
    assert 50 < first.process_mb < psutil.virtual_memory().total / 1e6
    assert 0 < first.available_mb <= first.total_mb <= psutil.virtual_memory().total / 1e6
    assert first.seconds([Operation("mm", int(first.product_flops_per_s), 0)]) >= 1 / first.efficiency
    json.dumps(first.as_dict(), allow_nan=False)


def test_a_worker_that_cannot_be_loaded_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(PeftlabError, match="no_such_module") as caught:
        Machine.here(tmp_path, device="cpu", worker="peftlab.no_such_module")
    assert "peftlab.planning.calibration" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("age_s", "stands"), [(0, True), (machine._STANDS_S - 60, True), (machine._STANDS_S, False), (-3600, False)]
)
def test_what_was_measured_stands_for_a_day(tmp_path: Path, age_s: float, stands: bool) -> None:
    worker = "peftlab.no_such_module"  # asked only if it is measured anew
    file = machine.measured_file(tmp_path, "machine", "cpu", worker)
    file.write_text(json.dumps(dict.fromkeys(machine._MEASURED, 7.0)))
    then = time.time() - age_s
    os.utime(file, (then, then))
    if stands:
        assert Machine.here(tmp_path, device="cpu", worker=worker).process_mb == 7.0
    else:
        with pytest.raises(PeftlabError, match="no_such_module"):
            Machine.here(tmp_path, device="cpu", worker=worker)


def test_measuring_that_does_not_end_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_TIMEOUT_S", 0.01)
    before = psutil.Process().children()
    with pytest.raises(PeftlabError, match="timed out"):
        Machine.here(tmp_path, device="cpu", worker="peftlab.registry")
    assert psutil.Process().children() == before
    assert not list(tmp_path.iterdir())
