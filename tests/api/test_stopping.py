"""A verb that is asked to stop while no run is in training says how to go on, whichever signal asked."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import Trained


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_between_training_and_report(trained: Trained, number: signal.Signals, code: int) -> None:
    """The runs are all there: they are reused, and the signal comes as the report begins."""
    study = trained.folder / "study.yaml"
    command = [sys.executable, "-m", "peftlab", "run", str(study), "--output", str(trained.folder.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stderr is not None
        said = ""
        while "4 reused" not in said and (line := process.stderr.readline()):
            said += line
        process.send_signal(number)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == code, said + rest
    assert "the same command continues where it stopped" in rest
