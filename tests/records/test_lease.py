"""Leases between real processes (RELIABILITY 3: 16, 17, 18, 28)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from peftlab.errors import LeaseHeld, RecordError
from peftlab.records import lease as leases
from peftlab.records.lease import BEAT_S, FILE, STALE_S, Holder, Lease, boot_id, holder
from tests.records.disk import Told, open_files

HOLD = """
import pathlib, sys, time
from peftlab.records.lease import Lease
with Lease(pathlib.Path(sys.argv[1]), beat_s=0.05):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lease until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def left_by(folder: Path, found: Holder, age_s: float) -> None:
    """A lease file as another process left it, its last heartbeat ``age_s`` ago."""
    (folder / FILE).write_text(json.dumps(asdict(found)))
    then = time.time() - age_s
    os.utime(folder / FILE, (then, then))


class Clock:
    """Time that passes by itself hardly, and else only while somebody sleeps; ``then`` says what the n-th sleep brings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Mapping[int, Callable[[], object]] | None = None) -> None:
        self.now, self.slept, self.then = 1000.0, [], then or {}
        monkeypatch.setattr(time, "monotonic", self.read)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def read(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.then.get(len(self.slept), lambda: None)()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        found = holder(tmp_path)
        assert found is not None and found.pid == process.pid
        with pytest.raises(LeaseHeld, match=str(process.pid)), Lease(tmp_path):
            pass
    finally:
        process.communicate("")
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == [], "a lease given back leaves nothing"
    with Lease(tmp_path):
        assert holder(tmp_path) is not None


def test_a_holder_whose_file_says_nothing_is_still_a_holder(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        (tmp_path / FILE).write_text("")
        assert holder(tmp_path) == Holder("an unknown host", 0, "")
    finally:
        process.communicate("")


def test_a_process_that_forgets_its_lease_still_ends(tmp_path: Path) -> None:
    code = "import pathlib, sys\nfrom peftlab.records.lease import Lease\nLease(pathlib.Path(sys.argv[1])).__enter__()"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60).returncode == 0
    assert holder(tmp_path) is None
    with Lease(tmp_path):
        assert holder(tmp_path) is not None


def test_a_killed_holder_holds_nothing_though_its_file_stays(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / FILE).exists()
    assert holder(tmp_path) is None
    with Lease(tmp_path):
        pass


def test_a_reused_pid_does_not_hold_the_lease_of_the_dead(tmp_path: Path) -> None:
    left_by(tmp_path, Holder(os.uname().nodename, 1, boot_id()), age_s=0)  # pid 1 lives, but it has no lock
    assert holder(tmp_path) is None
    with Lease(tmp_path):
        pass


def test_another_hosts_fresh_heartbeat_is_respected(tmp_path: Path) -> None:
    left_by(tmp_path, Holder("far-away", 1, "another-boot", "yesterday"), age_s=1)
    found = holder(tmp_path)
    assert found is not None and found.host == "far-away"
    with pytest.raises(LeaseHeld, match="far-away"), Lease(tmp_path):
        pass


@pytest.mark.parametrize("age_s", [1000.0, -1000.0], ids=["old", "clock-ahead"])
def test_another_hosts_heartbeat_out_of_time_is_watched_not_trusted(tmp_path: Path, age_s: float) -> None:
    left_by(tmp_path, Holder("far-away", 1, "another-boot"), age_s)
    with Lease(tmp_path, beat_s=0.05):  # it does not move: dead
        pass
    left_by(tmp_path, Holder("far-away", 1, "another-boot"), age_s)
    stop = threading.Event()

    def beat() -> None:
        skewed = time.time() - age_s
        while not stop.wait(0.02):
            skewed += 0.02
            os.utime(tmp_path / FILE, (skewed, skewed))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(LeaseHeld), Lease(tmp_path, beat_s=0.2):
            pass  # it moves, by a clock that is wrong: alive
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("age_s", [1.0, 1000.0])
def test_where_nothing_can_be_made_our_own_clock_tells_how_old_a_heartbeat_is(tmp_path: Path, age_s: float) -> None:
    left_by(tmp_path, Holder("far-away", 1, "another-boot"), age_s)
    # even root can make no file through a link into a folder that is not there
    (tmp_path / f".clock.tmp-{os.getpid():08x}").symlink_to(tmp_path / "nowhere" / "file")
    found = holder(tmp_path)
    assert (found is not None and found.host == "far-away") == (age_s < 100)


def test_ourselves_before_a_restart_of_the_machine_hold_nothing(tmp_path: Path) -> None:
    left_by(tmp_path, Holder(os.uname().nodename, os.getpid(), "the-boot-before"), age_s=1)
    assert holder(tmp_path) is None
    with Lease(tmp_path, beat_s=0.05):
        pass


def test_the_heart_beats(tmp_path: Path) -> None:
    lease = Lease(tmp_path, beat_s=0.02)
    for _ in range(2):  # also when it is taken again
        with lease:
            os.utime(tmp_path / FILE, (1, 1))
            deadline = time.monotonic() + 10
            while (tmp_path / FILE).stat().st_mtime < 1000:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_reentrant_in_a_thread_and_held_against_other_threads(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with Lease(tmp_path):
                pass
        except LeaseHeld as error:
            refused.append(error.what)

    def ask() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with Lease(tmp_path):
        for _ in range(2):
            with Lease(tmp_path):
                ask()
            ask()
        found = holder(tmp_path)
    assert refused == [f"the run is being worked on by {found}"] * 4, "to the end of the outermost, and who holds it is named"
    assert holder(tmp_path) is None


def test_a_forked_child_neither_holds_nor_prolongs_the_lease(tmp_path: Path) -> None:
    """A data-loader process that outlives its killed parent must not keep the run locked."""
    code = """
import os, pathlib, sys, time
from peftlab.records.lease import Lease
with Lease(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert holder(tmp_path) is not None
        process.kill()
        process.wait()
        assert holder(tmp_path) is None
        with Lease(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_many_processes_race_and_one_at_a_time_holds(tmp_path: Path) -> None:
    code = """
import pathlib, sys, time
from peftlab.errors import LeaseHeld
from peftlab.records.lease import Lease
folder, held = pathlib.Path(sys.argv[1]), 0
print("ready", flush=True)
sys.stdin.readline()
while held < 20:
    try:
        with Lease(folder):
            (folder / "inside").touch(exist_ok=False)
            time.sleep(0.001)
            (folder / "inside").unlink()
            held += 1
    except LeaseHeld:
        time.sleep(0.001)
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [racer.wait(60) for racer in racers] == [0] * 4, "no two were inside at once"


NO_LOCKS = """
import errno, fcntl, pathlib, sys
def refused(*_):
    raise OSError(getattr(errno, sys.argv[2]), "no locks here")
fcntl.flock = refused
from peftlab.errors import LeaseHeld, RecordError
from peftlab.records.lease import Lease, holder
folder = pathlib.Path(sys.argv[1])
print(holder(folder))
try:
    with Lease(folder):
        print("taken")
except LeaseHeld:
    print("held")
except RecordError as error:
    print(error.what, "|", error.remedy, "|", error.where)
"""


@pytest.mark.parametrize("refusal", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_a_disk_without_locks_is_a_typed_error_and_can_still_be_looked_at(tmp_path: Path, refusal: str) -> None:
    """The calls of NFS without a lock daemon, Lustre without flock, and the like, with the answer that their kernels give."""

    def tried() -> list[str]:
        command = [sys.executable, "-c", NO_LOCKS, str(tmp_path), refusal]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    held, said = tried()
    assert held == "None"
    assert said.startswith("this file system takes no locks | choose a local disk") and said.endswith(str(tmp_path))
    left_by(tmp_path, Holder("far-away", 1, "another-boot", "yesterday"), age_s=1)
    assert tried()[0] == "process 1 on far-away since yesterday", "its heartbeat tells"
    left_by(tmp_path, Holder("far-away", 1, "another-boot", "yesterday"), age_s=1000)
    assert tried()[0] == "None"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOLCK, "this file system takes no locks"), (errno.EIO, os.strerror(errno.EIO))]
)
def test_what_else_is_wrong_with_a_disk_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refused(*_) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(RecordError) as caught, Lease(tmp_path):
        pass
    assert caught.value.what == said


def test_what_a_forked_child_does_with_its_parents_leases(tmp_path: Path) -> None:
    """Done here, in the process of the tests, to a lease whose heart was stopped before; a child has none."""
    with Lease(tmp_path) as held:
        held._stop.set()
        held._thread.join()
        leases._after_fork()
        assert holder(tmp_path) is None, "nothing is locked"
        with Lease(tmp_path) as own:
            assert own is not held and holder(tmp_path) is not None


def test_who_works_on_a_run_in_words() -> None:
    assert str(Holder("here", 7, "boot", "2026-01-02T03:04:05Z")) == "process 7 on here since 2026-01-02T03:04:05Z"
    assert str(Holder("here", 7, "boot")) == "process 7 on here", "what is not known is not said"


def test_a_lease_says_in_whole_who_holds_it_whatever_was_there_before(tmp_path: Path) -> None:
    left_by(tmp_path, Holder("a-name-" * 40, 1, boot_id(), "the day before yesterday"), age_s=1)
    with Lease(tmp_path):
        found = Holder(**json.loads((tmp_path / FILE).read_text()))
        assert found == holder(tmp_path)
        assert (found.host, found.pid, found.boot_id) == (os.uname().nodename, os.getpid(), boot_id())
        written = time.mktime(time.strptime(found.started, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert abs(written - (tmp_path / FILE).stat().st_mtime) < 60


def test_what_an_empty_file_of_a_dead_process_says_is_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("")
    assert holder(tmp_path) is None
    with Lease(tmp_path):
        assert holder(tmp_path) is not None


def test_a_lease_whose_file_was_removed_is_given_back_quietly(tmp_path: Path) -> None:
    with Lease(tmp_path):
        (tmp_path / FILE).unlink()
    assert holder(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_a_folder_is_the_same_by_each_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with Lease(tmp_path / "folder"), Lease(tmp_path / "link"):
        assert holder(tmp_path / "folder") == holder(tmp_path / "link") is not None


@pytest.mark.parametrize("there", ["nothing", "older", "newer"])
def test_what_was_removed_before_it_was_locked_is_no_lease(tmp_path: Path, monkeypatch, there: str) -> None:
    """Its holder gave it back between our opening and our locking: the lock is on a file that nobody finds any more."""
    flock, calls, before = fcntl.flock, [], open_files()
    if there == "older":  # its number is mostly the lower one, that of a new file the higher
        (tmp_path / "another").write_text("")

    def late(handle: int, mode: int) -> None:
        if not calls:
            (tmp_path / FILE).rename(tmp_path / "removed")  # keeps its number, so that a new file gets another
            if there == "older":
                (tmp_path / "another").rename(tmp_path / FILE)
            elif there == "newer":
                (tmp_path / FILE).write_text("")
        calls.append(mode)
        flock(handle, mode)

    monkeypatch.setattr(fcntl, "flock", late)
    with Lease(tmp_path):
        assert len(calls) == 2
        rival = os.open(tmp_path / FILE, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(rival)
        found = holder(tmp_path)
        assert found is not None and found.pid == os.getpid()
    assert open_files() == before


@pytest.mark.parametrize(("age_s", "alive"), [(100.0, True), (140.0, False)])
def test_a_heartbeat_is_trusted_up_to_two_minutes(tmp_path: Path, age_s: float, alive: bool) -> None:
    left_by(tmp_path, Holder("far-away", 1, "another-boot", "yesterday"), age_s)
    assert (holder(tmp_path) is not None) == alive
    lease = Lease(tmp_path)
    assert (lease.beat_s, lease.stale_s) == (BEAT_S, STALE_S) == (10.0, 120.0)


def test_whoever_may_see_the_folder_may_read_who_holds_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with Lease(tmp_path):
            assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_no_heart_beats_for_what_was_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stamp whatever file gets the lease's number next."""
    utime, beating = os.utime, threading.Event()

    def slow(*arguments) -> None:
        beating.set()
        time.sleep(0.2)
        utime(*arguments)

    monkeypatch.setattr(os, "utime", slow)
    with Lease(tmp_path, beat_s=0.001) as lease:
        assert beating.wait(60)
    assert not lease._thread.is_alive()


def test_who_looks_for_an_instant_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = os.open(tmp_path / FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    before = open_files()
    clock = Clock(monkeypatch, {3: lambda: fcntl.flock(looking, fcntl.LOCK_UN)})
    with Lease(tmp_path):
        assert clock.slept == [0.01] * 3
    assert open_files() == before
    os.close(looking)


def test_who_stays_is_waited_for_a_fifth_of_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = os.open(tmp_path / FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(there, fcntl.LOCK_EX)
    clock = Clock(monkeypatch)
    with pytest.raises(LeaseHeld, match="by another process"), Lease(tmp_path):
        pass
    os.close(there)
    assert set(clock.slept) == {0.01} and sum(clock.slept) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(("beat_s", "look_s"), [(0.4, 0.1), (10.0, 0.5)])
def test_a_doubtful_heartbeat_is_watched_for_two_and_a_half_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beat_s: float, look_s: float
) -> None:
    """With at least four looks in each, and one every half a second."""
    left_by(tmp_path, Holder("far-away", 1, "another-boot"), age_s=1000)
    clock = Clock(monkeypatch)
    with Lease(tmp_path, beat_s=beat_s):
        pass
    assert set(clock.slept) == {look_s} and sum(clock.slept) == pytest.approx(2.5 * beat_s, abs=look_s)


def test_of_two_threads_each_is_refused_while_the_other_holds(tmp_path: Path) -> None:
    """Threads are told apart by numbers, of which one is the lower."""

    def refused() -> None:
        with pytest.raises(LeaseHeld), Lease(tmp_path):
            pass

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for holding, asking in ((one, other), (other, one)):
            lease = holding.submit(Lease(tmp_path).__enter__).result()
            asking.submit(refused).result()
            holding.submit(lease.__exit__, None, None, None).result()


def test_what_is_given_back_or_refused_is_closed(tmp_path: Path) -> None:
    before = open_files()
    with Lease(tmp_path):
        pass
    assert open_files() == before
    left_by(tmp_path, Holder("far-away", 1, "another-boot"), age_s=1)
    with pytest.raises(LeaseHeld), Lease(tmp_path):
        pass
    assert open_files() == before


def test_who_holds_a_lease_is_told_to_all_who_read_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk may keep what is written to an open file on the host until it is flushed."""
    told = Told(monkeypatch)
    with Lease(tmp_path):
        assert told.flushed(tmp_path / FILE)


def test_looking_leaves_nothing_and_minds_nobody_who_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that tells the disk's time is a temporary, which whoever sweeps the folder may remove first."""
    left_by(tmp_path, Holder("far-away", 1, "another-boot"), age_s=1)
    assert holder(tmp_path) is not None and [path.name for path in tmp_path.iterdir()] == [FILE]
    unlink = os.unlink

    def late(path: Path, **more) -> None:
        unlink(path, **more)
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", late)
    with pytest.raises(LeaseHeld), Lease(tmp_path):
        pass
