"""The real worker with one real fault in it, as the file beside the results asks; once, so that the next process is well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftlab.execution import stacked, worker
from peftlab.execution.forward import Forward
from peftlab.execution.protocol import Part, WorkerOptions
from peftlab.records import commit, journal
from peftlab.records.manifest import MANIFEST
from peftlab.records.run_folder import METRICS, RunFolder
from peftlab.training import checkpoint
from peftlab.training.loop import Trainer
from peftlab.training.stack import Stack


def order(results: Path) -> Path:
    """Where the fault of a results folder is asked for."""
    return results.with_name(f"{results.name}.fault.json")


def main(config_json: str, path: str, options: WorkerOptions, connection: Any) -> int:
    asked = order(Path(path).parents[2])
    if asked.exists():
        fault = json.loads(asked.read_text())
        asked.unlink()
        FAULTS[fault.pop("fault")](RunFolder(path), **fault)
    return worker.main(config_json, path, options, connection)


def stack_main(parts: Sequence[Part], options: WorkerOptions) -> int:
    """The same for runs that share a process; the fault is in the first of them, or in whoever comes there first."""
    asked = order(Path(parts[0].path).parents[2])
    if asked.exists():
        fault = json.loads(asked.read_text())
        asked.unlink()
        FAULTS[fault.pop("fault")](RunFolder(parts[0].path), **fault)
    return stacked.main(parts, options)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def before(owner: Any, name: str, act: Callable[..., Any]) -> None:
    """Have ``act`` called with the arguments of each call of a function, before it."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def at_step(number: int, act: Callable[[], Any]) -> None:
    """Once the optimizer has done so many steps, before anything of that step is written."""

    def look(_self: Any, step: int, *_: Any) -> None:
        if step == number:
            act()

    before(Forward, "on_step", look)


def kill(folder: RunFolder, step: int) -> None:
    at_step(step, die)


def kill_between_micro_batches(folder: RunFolder, step: int) -> None:
    """Half of the gradient of a step is there."""
    calls = []

    def look(trainer: Trainer, _batch: Any) -> None:
        calls.append(trainer.step)
        if calls.count(step - 1) == 2:
            die()

    before(Trainer, "_loss", look)


def kill_in_weights(folder: RunFolder, number: int) -> None:
    """In the middle of the file of weights of a checkpoint."""
    original, calls = checkpoint.save_file, []

    def save(tensors: Any, path: Path) -> None:
        original(tensors, path)
        calls.append(path)
        if len(calls) == number:
            os.truncate(path, path.stat().st_size // 2)
            die()

    checkpoint.save_file = save


def kill_before_manifest(folder: RunFolder, number: int) -> None:
    """All is written but the manifest of a checkpoint."""
    calls = []

    def look(path: Path, _content: Any) -> None:
        calls.extend([path] if path.name == MANIFEST else [])
        if len(calls) == number:
            die()

    before(commit, "write_atomic", look)


def kill_between_renames(folder: RunFolder, number: int) -> None:
    """A checkpoint has its manifest and still its temporary name."""
    calls = []

    def look(source: Any, _target: Any) -> None:
        calls.extend([source] if "step-" in str(source) and Path(source).is_dir() else [])
        if len(calls) == number:
            die()

    before(os, "rename", look)


def kill_in_deletion(folder: RunFolder, number: int) -> None:
    """Of an old checkpoint one file is gone."""
    original, calls = shutil.rmtree, []

    def remove(path: Any, *args: Any, **kwargs: Any) -> None:
        calls.extend([path] if "step-" in str(path) and ".tmp-" not in str(path) else [])
        if len(calls) == number:
            sorted(Path(path).iterdir())[0].unlink()
            die()
        original(path, *args, **kwargs)

    shutil.rmtree = remove


def kill_in_append(folder: RunFolder, number: int) -> None:
    """Half a line of metrics is written."""
    original, calls = os.write, []

    def write(handle: int, data: bytes) -> int:
        calls.extend([handle] if data.startswith(b'{"') else [])
        if len(calls) == number:
            original(handle, data[: len(data) // 2])
            die()
        return original(handle, data)

    before(journal, "append", lambda *_args, **_kwargs: setattr(os, "write", write))


def power_cut(folder: RunFolder, step: int) -> None:
    """The machine is off: of the journal there is what was flushed. (Checkpoints are flushed before they have their names.)"""
    flush, journal, kept = os.fsync, folder.path / METRICS, [0]

    def flushing(handle: int) -> None:
        flush(handle)
        if journal.exists() and os.path.samestat(os.fstat(handle), journal.stat()):
            kept.append(os.fstat(handle).st_size)

    def cut() -> None:
        os.truncate(journal, kept[-1])
        die()

    os.fsync = flushing
    at_step(step, cut)


def slow_save(folder: RunFolder, number: int, seconds: float) -> None:
    """Saving takes long; a file beside the results says that it has begun."""
    calls = []

    def look(_tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == number:
            order(folder.path.parents[2]).with_suffix(".saving").touch()
            time.sleep(seconds)

    before(checkpoint, "save_file", look)


def fill_disk(folder: RunFolder, step: int, leave: int = 0) -> None:
    """Another program takes what is left of the disk, but for so many bytes."""

    def fill() -> None:
        free = shutil.disk_usage(folder.path).free
        with (folder.path.parents[2] / "ballast").open("wb") as file:
            file.write(bytes(max(0, free - leave)))
            file.flush()

    at_step(step, fill)


def chatter(folder: RunFolder, step: int, characters: int) -> None:
    """A library prints a lot, on both streams."""
    import sys

    def speak() -> None:
        for stream in (sys.stdout, sys.stderr):
            print("x" * characters, file=stream, flush=True)

    at_step(step, speak)


def hang(folder: RunFolder, step: int, seconds: float) -> None:
    at_step(step, lambda: time.sleep(seconds))


def ask_to_stop(folder: RunFolder, step: int, number: int, starter: int) -> None:
    """A signal to the process that started us, as a terminal or a batch system sends it; waits until it has come to us."""

    def ask() -> None:
        flag = signal.getsignal(signal.SIGTERM).__self__  # type: ignore[union-attr]  # the worker's StopFlag
        os.kill(starter, number)
        wait_until(flag)

    at_step(step, ask)


def end_from_outside(folder: RunFolder, step: int) -> None:
    """SIGTERM to this very process, as a person or a system that wants its memory back sends it."""

    def ask() -> None:
        flag = signal.getsignal(signal.SIGTERM).__self__  # type: ignore[union-attr]  # the worker's StopFlag
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(flag)

    at_step(step, ask)


def wait_until(condition: Callable[[], bool], limit_s: float = 120.0) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def clock(folder: RunFolder, step: int, by_s: float) -> None:
    """The machine's clock jumps, for this process and the times of its files; then it waits until somebody has looked."""

    def jump() -> None:
        now, now_ns = time.time, time.time_ns
        time.time, time.time_ns = lambda: now() + by_s, lambda: now_ns() + int(by_s * 1e9)
        for file in folder.path.rglob("*"):
            os.utime(file, (now() + by_s, now() + by_s))
        mark = order(folder.path.parents[2])
        mark.with_suffix(".jumped").touch()
        wait_until(mark.with_suffix(".released").exists)

    at_step(step, jump)


def eat(folder: RunFolder, step: int, group: str) -> None:
    """Takes memory in a control group with a limit until the kernel's out-of-memory killer comes."""

    def take() -> None:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
        held = []
        while True:
            held.append(bytearray(b"x" * 2**22))

    at_step(step, take)


def joint_pass_fails(folder: RunFolder, number: int) -> None:
    """Memory runs out in a pass of all runs together."""
    calls = []

    def look(*_: Any) -> None:
        calls.append(1)
        if len(calls) == number:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    before(Stack, "_compute", look)


FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        kill, kill_between_micro_batches, kill_in_weights, kill_before_manifest, kill_between_renames, kill_in_deletion,
        kill_in_append, power_cut, slow_save, fill_disk, chatter, hang, ask_to_stop, end_from_outside, clock, eat,
        joint_pass_fails,
    )
}  # fmt: skip
