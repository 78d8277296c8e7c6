"""One live process per run folder: a lock of the operating system, and a heartbeat for hosts that do not share it.

On one machine the lock alone decides: it goes with the process that held it, so a reused pid or a file left by a crash says
nothing. Between machines (network disks whose locks are local) a fresh heartbeat decides; clocks are never compared, except that
both times are stamped by the disk's own server.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from peftlab.errors import LeaseHeld, RecordError
from peftlab.records.commit import disk_errors

FILE = "lease.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_LOCKS_REMEDY = "choose a local disk with --output, or mount this one with locks (docs/reliability.md); runners need them"
BEAT_S = 10.0  #: between two heartbeats
STALE_S = 120.0  #: a heartbeat older than this may be that of a dead host


@dataclass(frozen=True, slots=True)
class Holder:
    """Who works on a run."""

    host: str
    pid: int
    boot_id: str
    started: str = ""  #: start of the lease, UTC, for people to read

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" since {self.started}" if self.started else "")


@cache
def boot_id() -> str:
    """Changes with every start of the machine, so that a pid from before it is known to be dead."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import psutil

    return str(int(psutil.boot_time()))


_held: dict[str, Lease] = {}
_guard = threading.RLock()


class Lease:
    """A lease on a folder; a context manager, and re-entrant within one thread.

    Args:
        folder: the run's folder (must exist).
        beat_s: seconds between heartbeats.
        stale_s: age in seconds from which another host's heartbeat is doubted, and then watched for ``2.5 * beat_s``.

    Raises:
        LeaseHeld: on entering, when another live process (or thread) holds it; names it.
    """

    _handle: int  #: of the file; this and the following from entering on
    _owner: int
    _depth: int
    _thread: threading.Thread

    def __init__(self, folder: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> None:
        self.path = Path(folder) / FILE
        self.beat_s, self.stale_s = beat_s, stale_s
        self._stop = threading.Event()

    def __enter__(self) -> Lease:
        key = str(self.path.resolve())
        with _guard:
            same = _held.get(key)
            if same is not None and same._owner == threading.get_ident():
                same._depth += 1
                return same
            if same is not None:
                raise _refusal(self.path, _read(same._handle))
            with disk_errors(self.path):
                self._acquire()
            self._owner, self._depth = threading.get_ident(), 1
            _held[key] = self
        self._stop.clear()  # set where it was held before
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        key = str(self.path.resolve())
        with _guard:
            lease = _held.get(key)
            if lease is None:  # forked away meanwhile: not ours any more
                return
            lease._depth -= 1
            if lease._depth == 0:
                del _held[key]
                lease._release()

    def _acquire(self) -> None:
        deadline = time.monotonic() + 0.2  # holder() takes the lock for an instant: not a rival
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if not _lock(handle, fcntl.LOCK_EX, self.path):
                    if time.monotonic() < deadline:
                        time.sleep(0.01)
                        os.close(handle)
                        continue
                    raise _refusal(self.path, _read(handle))
                if not _is_at(handle, self.path):  # released and removed between open and lock
                    os.close(handle)
                    continue
                before = _read(handle)
                if before is not None and _foreign(before) and self._beats(handle, before):
                    raise _refusal(self.path, before)
                me = Holder(socket.gethostname(), os.getpid(), boot_id(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(asdict(me)).encode(), 0)
                # other hosts read who holds it while we have it open
                os.fsync(handle)
                self._handle = handle
                return
            except BaseException:
                with suppress(OSError):
                    os.close(handle)
                raise

    def _beats(self, handle: int, found: Holder) -> bool:
        """Whether another host's heartbeat is alive: fresh by the disk's clock, or seen to move while we watch.

        A holder with our host's name but another boot is most likely ourselves before a restart, so only watching tells.
        """
        seen = os.fstat(handle).st_mtime_ns
        fresh = abs(_disk_time_ns(self.path.parent) - seen) < self.stale_s * 1e9
        if fresh and found.host != socket.gethostname():
            return True
        end = time.monotonic() + 2.5 * self.beat_s
        while time.monotonic() < end:
            time.sleep(min(0.5, self.beat_s / 4))
            if self.path.stat().st_mtime_ns != seen:
                return True
        return False

    def _beat(self) -> None:
        while not self._stop.wait(self.beat_s):
            with suppress(OSError):  # a full or vanished disk shows where the results are written
                os.utime(self._handle)

    def _release(self) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            self.path.unlink()  # while still locked: whoever waits sees that the file is gone and starts over
        os.close(self._handle)


def holder(folder: Path) -> Holder | None:
    """Who holds the lease of a run folder now, or None (no lease, or one left by a dead process)."""
    path = Path(folder) / FILE
    with _guard:
        ours = _held.get(str(path.resolve()))
        if ours is not None:
            return _read(ours._handle)
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        found = _read(handle)
        with suppress(RecordError):  # where there are no locks nobody holds one; the heartbeat tells
            if not _lock(handle, fcntl.LOCK_SH, path):
                return found or Holder("an unknown host", 0, "")
        if found is None or not _foreign(found) or found.host == socket.gethostname():
            return None
        with suppress(OSError):
            if abs(_now_ns(path.parent) - os.fstat(handle).st_mtime_ns) < STALE_S * 1e9:
                return found
        return None
    finally:
        os.close(handle)


def _lock(handle: int, mode: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in _NO_LOCKS:
            raise RecordError("this file system takes no locks", where=str(path.parent), remedy=_NO_LOCKS_REMEDY) from error
        raise
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _read(handle: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(handle, 4096, 0)))
    except (OSError, ValueError, TypeError):
        return None


def _foreign(found: Holder) -> bool:
    """Whether the holder may run under another kernel, where our lock does not reach it."""
    return found.boot_id != boot_id()


def _disk_time_ns(folder: Path) -> int:
    """Now, by the clock that stamps files here."""
    probe = folder / f".clock.tmp-{os.getpid() & 0xFFFFFFFF:08x}"
    probe.touch()
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)


def _now_ns(folder: Path) -> int:
    """By the disk's clock where we may write, else by ours."""
    try:
        return _disk_time_ns(folder)
    except OSError:
        return time.time_ns()


def _refusal(path: Path, found: Holder | None) -> LeaseHeld:
    who = str(found) if found else "another process"
    remedy = "wait for it, or stop it; two runners share a study by skipping each other's runs"
    return LeaseHeld(f"the run is being worked on by {who}", where=str(path.parent), remedy=remedy)


def _after_fork() -> None:
    """A forked child must not keep its parent's locks alive, nor believe that it holds them."""
    global _guard
    _guard = threading.RLock()
    for lease in _held.values():
        with suppress(OSError):
            os.close(lease._handle)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
