"""The journal of metrics: half lines, full disks, numbers that are not finite (RELIABILITY 3: 6, 10, 19, 24)."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.errors import RecordError
from peftlab.records import journal
from tests.records.disk import Told, open_files


def line(step: int, loss: float = 0.5) -> dict[str, object]:
    return {"step": step, "epoch": step / 10, "split": "train", "loss": loss}


def steps(path: Path) -> list[int]:
    return [found.step for found in journal.read(path)]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert journal.read(path) == []
    journal.append(path, [line(1), {**line(2), "accuracy": np.float32(0.25)}])
    journal.append(path, [])
    journal.append(path, [line(3)], durable=False)
    assert steps(path) == [1, 2, 3]
    assert journal.read(path)[1].model_extra == {"accuracy": 0.25}


def test_what_shall_last_is_flushed_and_what_need_not_is_not(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "metrics.jsonl"
    told = Told(monkeypatch)
    journal.append(path, [line(1)], durable=False)
    assert told.events == []
    journal.append(path, [])
    assert told.flushed(path) and told.flushed(tmp_path), "what was appended before, and under its name"
    journal.append(path, [line(2)])
    assert told.flushed(path)


def test_a_journal_cut_at_any_byte_gives_its_whole_lines_and_can_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal.append(path, [line(1), line(2)])
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert steps(path) == [1, 2][:kept]
        journal.append(path, [line(9)])
        assert steps(path) == [*[1, 2][:kept], 9]


def test_half_a_line_longer_than_a_block_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal.append(path, [line(1)])
    with path.open("a") as file:
        file.write('{"step": 2, "note": "' + "x" * 200_000)
    journal.append(path, [line(2)])
    assert steps(path) == [1, 2]


def test_a_damaged_line_inside_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal.append(path, [line(1), line(2), line(3)])
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step": ~'))
    with pytest.raises(RecordError) as caught:
        journal.read(path)
    assert caught.value.where.endswith("metrics.jsonl:2")


@settings(deadline=None)
@given(st.lists(st.integers(0, 50)), st.integers(-1, 51))
def test_truncate_keeps_exactly_the_lines_up_to_the_step(
    tmp_path_factory: pytest.TempPathFactory, found: list[int], step: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    journal.append(path, [line(s) for s in found])
    assert journal.truncate(path, step) == sum(s > step for s in found)
    assert steps(path) == [s for s in found if s <= step]


def test_truncate_drops_half_a_line_as_well(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal.append(path, [line(1), line(2)])
    path.write_bytes(path.read_bytes() + b'{"step": 3')
    journal.truncate(path, 1)
    assert path.read_bytes().count(b"\n") == 1 and path.read_bytes().endswith(b"\n")


def test_a_full_disk_is_a_typed_error_and_the_journal_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal.append(path, [line(1)])
    before = path.read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limit[1]))  # room for a part of a line
    try:
        with pytest.raises(RecordError):
            journal.append(path, [line(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.floats(width=32).map(np.float32),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(values)
def test_anything_becomes_json_and_what_is_not_finite_null(value: object) -> None:
    plain = journal.plain(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    if isinstance(value, float):
        assert plain == (value if math.isfinite(value) else None)


def test_arrays_sets_and_paths_have_a_plain_form() -> None:
    found = journal.plain({"a": np.array([1.0, np.nan]), "s": {2, 1}, "p": Path("x/y"), 3: np.int64(4), "t": (1, 2)})
    assert found == {"a": [1.0, None], "s": [1, 2], "p": "x/y", "3": 4, "t": [1, 2]}


def test_only_what_has_no_order_is_sorted() -> None:
    names = [f"name-{number}" for number in range(30)]
    assert journal.plain(set(names)) == journal.plain(frozenset(names)) == sorted(names)
    assert journal.plain({10, 9}) == [10, 9], "as text, so that values of several kinds can be compared"
    assert journal.plain([3, 1, 2]) == journal.plain((3, 1, 2)) == [3, 1, 2]


def test_a_line_that_ends_where_a_block_begins_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal.append(path, [line(1), line(2)])
    with path.open("a") as file:
        file.write("x" * (65536 - 1))  # blocks are read from the end: the newline is the first byte of the last one
    journal.append(path, [line(3)])
    assert steps(path) == [1, 2, 3]


def test_where_nothing_is_dropped_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert journal.truncate(path, 3) == 0 and not path.exists()
    journal.append(path, [line(1), line(2)])
    before = path.stat().st_ino
    assert journal.truncate(path, 2) == 0 and path.stat().st_ino == before
    assert journal.truncate(path, 1) == 1 and path.stat().st_ino != before


def test_a_journal_that_cannot_be_read_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RecordError, match="is no regular file") as caught:
        journal.read(tmp_path / "metrics.jsonl")
    assert caught.value.where == str(tmp_path / "metrics.jsonl") and caught.value.remedy


def test_whoever_may_see_the_folder_may_read_the_journal(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        journal.append(tmp_path / "metrics.jsonl", [line(1)])
    finally:
        os.umask(before)
    assert (tmp_path / "metrics.jsonl").stat().st_mode & 0o777 == 0o644


def test_the_same_line_is_the_same_bytes(tmp_path: Path) -> None:
    before = open_files()
    journal.append(tmp_path / "one", [line(1)])
    journal.append(tmp_path / "other", [dict(reversed(line(1).items()))])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert open_files() == before


def test_a_journal_of_one_empty_line_is_as_damaged_as_before(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\n")
    journal.append(tmp_path / "metrics.jsonl", [line(1)])
    with pytest.raises(RecordError, match="damaged") as caught:
        journal.read(tmp_path / "metrics.jsonl")
    assert caught.value.where.endswith("metrics.jsonl:1")
