"""Every attempt of a run is continued as it was begun, also when the run falls back again on its way there."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.errors import RecordError
from peftlab.execution.attempts import Attempts
from peftlab.records.run_folder import RunFolder

NAME = "how.json"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    tmp_path.joinpath("run").mkdir()
    return RunFolder(tmp_path / "run")


def test_an_attempt_is_found_as_it_was_written_last(run: RunFolder) -> None:
    attempts = Attempts(run, NAME)
    assert attempts.begun("a") is None  # no checkpoints: it is new
    attempts.write({"attempt": "a", "how": 1})
    assert attempts.begun("a") is None
    (run.checkpoints / "a").mkdir(parents=True)
    assert attempts.begun("a") == {"attempt": "a", "how": 1}
    attempts.write({"attempt": "a", "how": 2})
    assert Attempts(run, NAME).begun("a") == {"attempt": "a", "how": 2}


def test_a_run_that_starts_again_with_its_first_attempt_keeps_the_second(run: RunFolder) -> None:
    for name, how in (("a", 1), ("b", 2)):
        (run.checkpoints / name).mkdir(parents=True)
        Attempts(run, NAME).write({"attempt": name, "how": how})
    resumed = Attempts(run, NAME)
    resumed.write({"attempt": "a", "how": 1})
    assert resumed.begun("b") == {"attempt": "b", "how": 2}
    assert run.read_json(NAME) == {"attempt": "a", "how": 1, "earlier": [{"attempt": "b", "how": 2}]}


def test_checkpoints_without_a_record_are_told_from_none(run: RunFolder) -> None:
    (run.checkpoints / "a").mkdir(parents=True)
    assert Attempts(run, NAME).begun("a") == {}


def test_a_damaged_record_is_an_error(run: RunFolder) -> None:
    (run.checkpoints / "a").mkdir(parents=True)
    (run.path / NAME).write_text("{")
    with pytest.raises(RecordError, match="not readable"):
        Attempts(run, NAME).begun("a")
