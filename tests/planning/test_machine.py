"""The machine as predictions see it, really measured once in a process of its own."""

from __future__ import annotations

import json
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


def test_measuring_that_does_not_end_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_TIMEOUT_S", 0.01)
    before = psutil.Process().children()
    with pytest.raises(PeftlabError, match="timed out"):
        Machine.here(tmp_path, device="cpu", worker="peftlab.registry")
    assert psutil.Process().children() == before
    assert not list(tmp_path.iterdir())
