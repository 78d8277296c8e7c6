"""Hidden states on disk: one file for all examples of a data set, written once, shared by whoever needs the same.

A file is the rows of all examples one after the other, where each begins, a description, and the SHA-256 of all that. It is
written under another name and renamed, and checked whole when it is opened; one that is cut or changed is made anew. Rows are
read with ``preadv``: a memory map would count as memory of the process, and a file cut short under it would end the process.

One process fills, under a lock of the operating system that goes with the process; the others wait. The files together stay below
a limit, those used longest ago go first: an open one stays readable for those who have it open.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

LAYOUT = 1  #: raised when what a file holds changes
LIMIT_MB = 4000.0  #: of all files together
FREE_SHARE = 0.5  #: of the free disk that one file may take
_MAGIC = b"PREFIX01"
_END = struct.Struct("<QQ32s8s")  #: bytes of the offsets, bytes of the description, SHA-256, magic
_PIECE = 1 << 22
_POLL_S = 0.05


class NoRoom(Exception):
    """Why hidden states cannot be kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """An open file: ``number`` rows of bytes."""

    handle: int
    offsets: np.ndarray  #: int64 [N + 1], in bytes
    about: Mapping[str, Any]  #: seconds that filling took, who did, when
    here: bool = False  #: filled by this process
    damaged: bool = False  #: a file was there, and not whole

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def size(self, row: int) -> int:
        """Bytes of a row."""
        return int(self.offsets[row + 1] - self.offsets[row])

    def read(self, row: int, into: memoryview) -> None:
        """Read a row to where there is room for exactly that.

        Raises:
            OSError: the file has become shorter.
        """
        if os.preadv(self.handle, [into], int(self.offsets[row])) != len(into):
            raise OSError("the file became shorter while it was in use")

    def close(self) -> None:
        os.close(self.handle)


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """The files in a folder."""

    folder: Path
    limit_mb: float = LIMIT_MB

    def check(self, size: int) -> None:
        """Raises NoRoom if ``size`` bytes cannot be kept here."""
        if size > self.limit_mb * 1e6:
            raise NoRoom(f"hidden states of {size / 1e6:,.0f} MB are more than the {self.limit_mb:,.0f} MB that may be kept")
        free = shutil.disk_usage(_existing(self.folder)).free + sum(size for _, size, _ in self._files())
        if size > FREE_SHARE * free:
            raise NoRoom(f"hidden states of {size / 1e6:,.0f} MB are too much for a disk with {free / 1e6:,.0f} MB free")

    def rows(
        self,
        key: Mapping[str, Any],
        number: int,
        size: int,
        make: Callable[[], Iterator[bytearray]],
        *,
        by: str = "",
        waiting: Callable[[], None] = lambda: None,
    ) -> Rows:
        """The rows of ``key``, from disk or made now.

        Args:
            key: everything that decides their bytes; JSON-ready.
            number: of rows.
            size: of all of them, bytes, about.
            make: gives the rows in order.
            by: who fills, for the description.
            waiting: called again and again while another process fills; may raise.

        Raises:
            NoRoom: they are not there, and cannot be kept.
        """
        name = hashlib.sha256(json.dumps([LAYOUT, key], sort_keys=True).encode()).hexdigest()[:40]
        path = self.folder / f"{name}.rows"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found, damaged = _open(path, number)
            while found is None:
                with _locked(path.with_suffix(".lock")) as mine:
                    found, broken = _open(path, number)  # another may have made it meanwhile
                    damaged |= broken
                    if found is not None and mine:
                        path.with_suffix(".lock").unlink(missing_ok=True)
                    if found is None and mine:
                        self._fill(path, size, make, {"by": by, "key": dict(key)}, waiting)
                        path.with_suffix(".lock").unlink(missing_ok=True)  # who waits finds the file; nobody else comes
                        found, _ = _open(path, number)
                        if found is None:
                            raise NoRoom(f"hidden states were written to {path} and cannot be read back")
                        return dataclasses.replace(found, here=True, damaged=damaged)
                if found is None:
                    waiting()
                    time.sleep(_POLL_S)
        except OSError as error:
            raise NoRoom(f"hidden states cannot be kept: {error}") from error
        return dataclasses.replace(found, damaged=damaged)

    def _fill(
        self, path: Path, size: int, make: Callable[[], Iterator[bytearray]], about: dict[str, Any], waiting: Callable[[], None]
    ) -> None:
        self.check(size)
        for left in self.folder.glob(f".{path.name}.*"):  # of a process that was killed: the lock is ours
            left.unlink(missing_ok=True)
        self._make_room(size)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        began = time.perf_counter()
        try:
            with temporary.open("wb") as file:
                digest, ends = hashlib.sha256(), [0]

                def put(data: bytes | bytearray) -> None:
                    file.write(data)
                    digest.update(data)

                for row in make():
                    waiting()
                    put(row)
                    ends.append(ends[-1] + len(row))
                offsets = np.asarray(ends, dtype="<i8").tobytes()
                about |= {"seconds": time.perf_counter() - began, "made": time.time()}
                text = json.dumps(about, sort_keys=True).encode()
                put(offsets)
                put(text)
                file.write(_END.pack(len(offsets), len(text), digest.digest(), _MAGIC))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until ``size`` more bytes are within the limit and the disk's free space."""
        files = sorted(self._files())
        held = sum(file[1] for file in files)
        for _, bytes_, path in files:
            if held + size <= self.limit_mb * 1e6 and size <= FREE_SHARE * shutil.disk_usage(self.folder).free:
                return
            path.unlink(missing_ok=True)
            held -= bytes_

    def _files(self) -> list[tuple[float, int, Path]]:
        """(when it was used last, bytes, path); another process may remove one at any time."""
        found = []
        for path in self.folder.glob("*.rows") if self.folder.is_dir() else ():
            with suppress(OSError):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        return found


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _open(path: Path, number: int) -> tuple[Rows | None, bool]:
    """(the file, if it is there and whole; whether one was there that is not). Opening counts as use."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, False
    found = _checked(handle, number)
    if found is None:
        os.close(handle)
        return None, True  # filling replaces it
    with suppress(OSError):
        os.utime(path)
    return found, False


def _checked(handle: int, number: int) -> Rows | None:
    size = os.fstat(handle).st_size
    if size < _END.size:
        return None
    offsets_bytes, text_bytes, wanted, magic = _END.unpack(os.pread(handle, _END.size, size - _END.size))
    payload = size - _END.size - offsets_bytes - text_bytes
    if magic != _MAGIC or payload < 0 or offsets_bytes != 8 * (number + 1):
        return None
    digest, place, end = hashlib.sha256(), 0, size - _END.size
    while place < end:
        piece = os.pread(handle, min(_PIECE, end - place), place)
        if not piece:
            return None
        digest.update(piece)
        place += len(piece)
    if digest.digest() != wanted:
        return None
    offsets = np.frombuffer(os.pread(handle, offsets_bytes, payload), dtype="<i8")
    about = json.loads(os.pread(handle, text_bytes, payload + offsets_bytes))
    return Rows(handle, offsets, about)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether the lock is ours; it is not waited for."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
        yield mine
    finally:
        os.close(handle)
