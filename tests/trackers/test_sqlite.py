"""The SQLite file: what one asks of it, and that it is whole whatever else has it open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from peftlab.trackers.contract import Line, TrackedRun
from peftlab.trackers.sqlite import FILE, Sqlite
from tests.trackers.records import config


def run(tmp_path: Path, seed: int = 0) -> TrackedRun:
    return TrackedRun(config=config(seed), folder=tmp_path)


def line(step: int, **values: float) -> Line:
    return Line(step=step, split="train", values={"train/epoch": step / 3, **{f"train/{key}": v for key, v in values.items()}})


def test_its_views_are_read_with_pandas_while_runs_go_on(tmp_path: Path) -> None:
    for seed in (0, 1):
        session = Sqlite().open(run(tmp_path, seed))
        session.log([line(1, loss=2.0 + seed), line(2, loss=1.0 + seed)])
        if seed:
            session.close("diverged")
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        latest = pd.read_sql("SELECT * FROM latest WHERE metric = 'train/loss' ORDER BY seed", file)
        curves = pd.read_sql("SELECT * FROM curves", file)
        rank = "SELECT value FROM settings WHERE run = ? AND key = 'adapter.rank'"
        assert file.execute(rank, (config(0).run_id,)).fetchone() == (config(0).adapter["rank"],)
    assert latest[["seed", "step", "value", "status"]].to_numpy().tolist() == [[0, 2, 1.0, "running"], [1, 2, 2.0, "diverged"]]
    assert len(curves) == 2 * 2 * 2 and set(curves["label"]) == {config(0).label}


def test_opened_again_it_knows_how_far_it_has_come(tmp_path: Path) -> None:
    first = Sqlite().open(run(tmp_path))
    assert first.last == {}
    first.log([line(1, loss=2.0), line(2, loss=1.5), Line(step=2, split="validation", values={"validation/epoch": 0.5})])
    first.close("interrupted")
    again = Sqlite().open(run(tmp_path))
    assert again.last == {"train": 2, "validation": 2}
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        assert file.execute("SELECT status, closed FROM runs").fetchall() == [("running", None)]


def test_what_fails_half_way_is_not_there(tmp_path: Path) -> None:
    session = Sqlite().open(run(tmp_path))
    with pytest.raises(sqlite3.IntegrityError):
        session.log([line(1, loss=2.0), line(2, loss=None)])  # pyright: ignore[reportArgumentType] (no number: refused by the table)
    assert Sqlite().open(run(tmp_path)).last == {}


def test_one_that_is_locked_for_too_long_is_an_error(tmp_path: Path) -> None:
    session = Sqlite(timeout_s=0.01).open(run(tmp_path))
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            session.log([line(1, loss=2.0)])
        other.execute("ROLLBACK")
    session.log([line(1, loss=2.0)])


def test_words_of_a_study_are_no_sql(tmp_path: Path) -> None:
    hostile = config(0).model_copy(update={"label": "x'); DROP TABLE runs; --", "arm": '"; --'})
    Sqlite().open(TrackedRun(config=hostile, folder=tmp_path)).log([line(1, **{"a'b": 1.0})])
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        assert file.execute("SELECT label, arm FROM runs").fetchall() == [(hostile.label, hostile.arm)]
