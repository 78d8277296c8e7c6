"""A second process changes when a report is ready, and nothing else."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import pytest

from peftlab.analysis.analyze import read_findings
from peftlab.errors import RecordError
from peftlab.report import build
from peftlab.report.helper import Helper, helping
from tests.report.fixtures import STUDY, Options, write_results


def test_the_helper_does_what_is_asked() -> None:
    with helping(True) as helper:
        for value in (4.0, 9.0):
            helper.start(math.sqrt, value)
            assert helper.result() == math.sqrt(value)


def test_without_a_process_the_work_is_done_here(tmp_path: Path) -> None:
    helper = Helper(None, tmp_path)
    helper.start(math.factorial, 5)
    assert helper.result() == 120


def test_a_helper_that_dies_is_replaced() -> None:
    with helping(True) as helper:
        helper.start(math.sqrt, -1.0)  # raises in the helper, which ends with it
        with pytest.raises(ValueError, match=r"domain|nonnegative"):
            helper.result()
        helper.start(math.sqrt, 16.0)
        assert helper.result() == 4.0


def test_what_is_raised_by_rule_is_raised_here_and_ends_nothing() -> None:
    with helping(True) as helper:
        process = helper._process
        helper.start(read_findings, "nowhere")
        with pytest.raises(RecordError, match="cannot be read as findings"):
            helper.result()
        helper.start(math.sqrt, 16.0)
        assert helper.result() == 4.0 and helper._process is process is not None


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_a_job_prints_is_no_answer(
    unbuffered: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with helping(True) as helper:
        process = helper._process
        helper.start(print, "done")
        assert helper.result() is None and helper._process is process is not None
    assert capfd.readouterr().err == "done\n"


def test_where_nothing_can_be_sent_the_work_is_done_here(tmp_path: Path) -> None:
    with helping(True) as helper:
        helper.folder = tmp_path / "not there"
        helper.start(math.sqrt, 16.0)
        assert helper.result() == 4.0
    with helping(True) as helper:
        helper.start(lambda: 5)  # cannot be sent
        assert helper.result() == 5


def test_the_report_is_the_same_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_results(tmp_path / "one", Options(study={**STUDY, "seeds": [0, 1, 2]}, failed=(), diverged=()))
    shutil.copytree(folder, tmp_path / "two" / folder.name)
    build.build_report(folder)
    monkeypatch.setattr(build, "MANY", 1)
    build.build_report(tmp_path / "two" / folder.name)
    alone, helped = (_contents(tmp_path / name / folder.name) for name in ("one", "two"))
    assert len(alone) > 20
    assert alone == helped


def _contents(folder: Path) -> dict[str, str]:
    files = [p for part in ("analysis", "report") for p in (folder / part).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
