"""What a test sees of the calls that make a change last: flushes, renames, removals, in their order, each really made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peftlab.records import commit


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


class Told:
    """The calls in order, by inode: ("flush", file, bytes), ("rename", folder of the new name, 0), ("remove", file, 0).

    A killed process loses nothing that it wrote; what a power cut loses is what was not flushed, and no test can cut the power.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int, int]] = []
        fsync, rename, unlink, exchange = os.fsync, os.rename, os.unlink, commit._exchange

        def flushing(handle: int) -> None:
            about = os.fstat(handle)
            self.events.append(("flush", about.st_ino, about.st_size))
            fsync(handle)

        def renaming(old: Path, new: Path) -> None:
            rename(old, new)
            self.events.append(("rename", Path(new).parent.stat().st_ino, 0))

        def removing(path: Path, **more) -> None:
            self.events.append(("remove", os.stat(path, follow_symlinks=False, **more).st_ino, 0))  # noqa: PTH116 - has dir_fd
            unlink(path, **more)

        def exchanging(one: Path, other: Path) -> bool:
            done = exchange(one, other)
            self.events += [("rename", other.parent.stat().st_ino, 0)] if done else []
            return done

        for name, function in (("fsync", flushing), ("rename", renaming), ("replace", renaming), ("unlink", removing)):
            monkeypatch.setattr(os, name, function)
        monkeypatch.setattr(commit, "_exchange", exchanging)

    def flushed(self, path: Path, before: int | None = None) -> bool:
        """Whether a file was flushed as it is now (a folder: at all), before that event."""
        about = path.stat()
        found = [size for what, file, size in self.events[:before] if (what, file) == ("flush", about.st_ino)]
        return about.st_size in found if path.is_file() else bool(found)

    def check(self, target: Path) -> None:
        """What is below ``target`` was flushed before a rename made it visible, and the rename before anything was removed."""
        parent = target.parent.stat().st_ino
        renames = [at for at, event in enumerate(self.events) if event[:2] == ("rename", parent)]
        for path in [target, *target.rglob("*")]:
            assert self.flushed(path, renames[0]), f"{path.name} is visible before it is on the disk"
        kept = [at for at, event in enumerate(self.events) if event[:2] == ("flush", parent) and at > renames[-1]]
        assert kept, "a power cut undoes the rename"
        assert not [event for event in self.events[: kept[0]] if event[0] == "remove"], (
            "the old was removed before the new was kept"
        )
