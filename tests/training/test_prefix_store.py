"""Hidden states on disk: whole or made anew, filled by one process, bounded."""

from __future__ import annotations

import multiprocessing
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftlab.training.prefix_store import NoRoom, Rows, Store

ROWS = [bytes([number]) * (3 + number) for number in range(20)]
SIZE = sum(len(row) for row in ROWS)


def made(rows: list[bytes] = ROWS) -> Iterator[bytearray]:
    yield from (bytearray(row) for row in rows)


def contents(rows: Rows) -> list[bytes]:
    found = []
    for place in range(len(rows)):
        room = bytearray(rows.size(place))
        rows.read(place, memoryview(room))
        found.append(bytes(room))
    return found


def kept(store: Store, key: str = "a", rows: list[bytes] = ROWS, **options: Any) -> Rows:
    return store.rows({"key": key}, len(rows), sum(map(len, rows)), lambda: made(rows), **options)


def never() -> Iterator[bytearray]:
    raise AssertionError("the rows were there")


def test_rows_are_made_once_and_read_back(tmp_path: Path) -> None:
    first = kept(Store(tmp_path), by="one")
    again = Store(tmp_path).rows({"key": "a"}, len(ROWS), SIZE, never)
    assert contents(first) == contents(again) == ROWS
    assert first.here and not again.here
    assert again.about["by"] == "one"
    assert [path.suffix for path in tmp_path.iterdir()] == [".rows"]  # no lock, nothing half written


def test_another_key_is_another_file(tmp_path: Path) -> None:
    other = [b"x"] * 20
    kept(Store(tmp_path))
    assert contents(kept(Store(tmp_path), "b", other)) == other


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "flipped at the end"])
def test_a_damaged_file_is_noticed_and_made_anew(tmp_path: Path, harm: str) -> None:
    kept(Store(tmp_path))
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    place = {"flipped": 5, "flipped at the end": len(data) - 50}.get(harm)
    if place is not None:
        data[place] ^= 0x10
    file.write_bytes({"cut": data[:-7], "emptied": b""}.get(harm, data))
    again = kept(Store(tmp_path))
    assert again.here and again.damaged
    assert contents(again) == ROWS


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    rows = kept(Store(tmp_path))
    (file,) = tmp_path.iterdir()
    os.truncate(file, 10)
    with pytest.raises(OSError, match="shorter"):
        rows.read(len(ROWS) - 1, memoryview(bytearray(rows.size(len(ROWS) - 1))))


def test_what_was_used_longest_ago_goes_first_and_stays_readable_where_it_is_open(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_mb=2.6 * SIZE / 1e6 + 2e-3)  # of descriptions
    old, used = kept(store, "old"), kept(store, "used")
    for age, rows in ((300, old), (200, used)):
        path = next(path for path in tmp_path.iterdir() if path.samefile(f"/proc/self/fd/{rows.handle}"))
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    kept(Store(tmp_path), "old").close()  # opening it is using it
    store = Store(tmp_path, limit_mb=sum(p.stat().st_size for p in tmp_path.iterdir()) / 1e6)
    kept(store, "new")
    assert not kept(Store(tmp_path), "old").here
    assert kept(Store(tmp_path), "used").here
    assert contents(used) == ROWS


def test_what_does_not_fit_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="more than the 0 MB"):
        kept(Store(tmp_path, limit_mb=SIZE / 2e6))
    assert not list(tmp_path.glob("*.rows"))


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NoRoom, match="cannot be kept"):
        kept(Store(tmp_path / "file" / "prefixes"))


def test_an_error_while_filling_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytearray]:
        yield bytearray(b"row")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).rows({"key": "a"}, 2, 6, broken)
    assert not list(tmp_path.glob("*.rows")) and not list(tmp_path.glob(".*"))
    assert contents(kept(Store(tmp_path))) == ROWS


def _fill(folder: Path, gate: Any, told: Any) -> None:
    def slow() -> Iterator[bytearray]:
        for row in made():
            gate.wait(0.01)
            yield row

    rows = Store(folder).rows({"key": "a"}, len(ROWS), SIZE, slow)
    told.put((rows.here, contents(rows) == ROWS))


def test_of_several_processes_one_fills_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, told = context.Event(), context.Queue()
    workers = [context.Process(target=_fill, args=(tmp_path, gate, told)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [told.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert all(whole for _, whole in found)
    assert sum(here for here, _ in found) == 1


def _die(folder: Path) -> None:
    def dying() -> Iterator[bytearray]:
        yield bytearray(ROWS[0])
        os._exit(9)

    Store(folder).rows({"key": "a"}, len(ROWS), SIZE, dying)


def test_a_filler_that_is_killed_is_followed_by_another(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_die, args=(tmp_path,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 9 and list(tmp_path.glob(".*"))
    rows = kept(Store(tmp_path))
    assert rows.here and contents(rows) == ROWS
    assert not list(tmp_path.glob(".*"))


def test_who_waits_can_be_asked_to_stop(tmp_path: Path) -> None:
    import fcntl

    kept(Store(tmp_path))
    (file,) = tmp_path.iterdir()
    file.unlink()
    held = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)

    def asked() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(Store(tmp_path), waiting=asked)
    os.close(held)


def test_the_end_of_a_file_says_what_is_in_it(tmp_path: Path) -> None:
    """The layout, read without the code that wrote it."""
    kept(Store(tmp_path))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    offsets, text = struct.unpack("<QQ", data[-56:-40])
    assert data[:SIZE] == b"".join(ROWS)
    assert offsets == 8 * (len(ROWS) + 1)
    assert len(data) == SIZE + offsets + text + 56
