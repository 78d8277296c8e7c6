"""What this machine has, and what works on it: every line was tried, not looked up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peftlab.api._tools import COMPILER, Line, tools
from peftlab.api._trials import CLASHING, REINSTALL, UNNEEDED
from peftlab.api.answers import Answer, lines, megabytes, table
from peftlab.errors import install
from peftlab.records.environment import usable_cores

HUB_TIMEOUT_S = 4.0
TRIAL_LIMIT_S = 120.0  #: of one process of trials; a cold disk makes importing torch slow
FULL_LIMIT_S = 300.0  #: of torch.compile and of an ONNX export
_NEEDED = ("torch", "torchvision", "transformers", "peft", "timm", "datasets")
_OPTIONAL = {
    "bitsandbytes": "QLoRA and other bitsandbytes quantizers",
    "onnxruntime": "running ONNX files",
    "ONNX": "export --onnx",
    "ray": "runs on several machines",
}
_EXTRAS = {"onnxruntime": "onnx", "ONNX": "onnx", "ray": "ray"}


def doctor(*, full: bool = False) -> Answer:
    """Devices, memory, disk, libraries, tools and connection: what works here, and how to mend what does not.

    Libraries are tried in processes of their own with a time limit, so that one that crashes or hangs is a line and no more.
    The exit code is 1 where something fails that peftlab cannot do without; what is merely optional is a warning.

    Args:
        full: also compile with torch.compile, and export and run an ONNX model (up to a minute).
    """
    with ThreadPoolExecutor() as pool:
        programs = pool.submit(lambda: [*tools(full)])
        hub = pool.submit(_hub)
        libraries = pool.submit(lambda: [*_libraries(full)])
        found = [*_machine(), *libraries.result(), *programs.result(), hub.result()]
    failed = [line for line in found if line.state == "fail"]
    warned = [line for line in found if line.state == "warn"]
    data = {"ok": not failed, "lines": found}

    def shown():
        rows = [(line.state, line.name, line.found + (f"\n-> {line.remedy}" if line.remedy else "")) for line in found]
        verdict = f"{len(failed)} broken" if failed else "Everything that peftlab needs works here"
        return lines(table(["", "what", "found"], rows), f"{verdict}; {len(warned)} optional or limited.")

    return Answer(data, shown, exit_code=1 if failed else 0)


def _machine() -> Iterator[Line]:
    found = f"{platform.python_version()} on {platform.platform(terse=True)}"
    fits = sys.version_info >= (3, 11)
    remedy = "" if fits else "install Python 3.11 or newer"
    yield Line(group="machine", name="python", state="ok" if fits else "fail", found=found, remedy=remedy)
    yield _processors()
    yield _memory()
    yield _disk(Path.cwd(), "disk", "run from a folder you may write to, or name one with --output")
    from peftlab.api.running import cache_folder

    yield _disk(cache_folder(), "cache", "name another folder with the variable PEFTLAB_CACHE")


def _processors() -> Line:
    seen, usable = os.cpu_count() or 1, usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{usable} of {seen} processors usable; OMP_NUM_THREADS {threads or 'not set'} (a run gets one thread either way)"
    return Line(group="machine", name="threads", state="ok", found=found)


def _memory() -> Line:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = _container_limit()
    found = f"{megabytes(free)} free of {megabytes(total)}"
    if limit is not None and limit < total:
        found, free = f"{found}; this container may use {megabytes(limit)}", min(free, limit)
    low = free < 2e9
    remedy = "under 2 GB: close other programs, or run with --jobs 1 and small batches" if low else ""
    return Line(group="machine", name="memory", state="warn" if low else "ok", found=found, remedy=remedy)


def _container_limit() -> int | None:
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _disk(folder: Path, name: str, elsewhere: str) -> Line:
    """Whether a folder, or the nearest above it that is there, can be written and locked, and what is free."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    what = "not writable"
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
            what = "takes no locks"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Line(group="machine", name=name, state="warn", found=f"{there} {what}: {error.strerror}", remedy=elsewhere)
    low = free < 2e9
    said = f"{megabytes(free)} free " + ("here" if name == "disk" else f"in {there}")
    remedy = "under 2 GB: free some space" if low else ""
    return Line(group="machine", name=name, state="warn" if low else "ok", found=said, remedy=remedy)


def _libraries(full: bool) -> Iterator[Line]:
    """Each library doing, once, what peftlab needs it for; then the accelerators, and what is optional."""
    jobs = [(*_NEEDED, "devices"), ("bitsandbytes", "onnxruntime", "ray"), tuple(CLASHING)]
    jobs += [("ONNX",), ("torch.compile",)] if full else []
    with ThreadPoolExecutor() as pool:
        limits = [FULL_LIMIT_S if job[0] in ("ONNX", "torch.compile") else TRIAL_LIMIT_S for job in jobs]
        needed, *others = pool.map(_try, jobs, limits)
    accelerators = needed.pop("devices")
    for name, (told, *_) in needed.items():
        remedy = told["remedy"] or (REINSTALL.format(name=name) if told["state"] != "ok" else "")
        found = told["found"] or "not installed"
        yield Line(group="libraries", name=name, state="ok" if told["state"] == "ok" else "fail", found=found, remedy=remedy)
    yield from _devices(accelerators)
    for name, (told, *_) in {name: told for part in others for name, told in part.items()}.items():
        yield from _optional(name, told)


def _devices(found: Sequence[dict[str, str]]) -> Iterator[Line]:
    for told in found:
        state = "ok" if told["state"] == "ok" else "fail"
        yield Line(group="devices", name=told["name"], state=state, found=told["found"], remedy=told["remedy"])
    if not found:
        remedy = "small backbones train on the processor; for others install torch for your accelerator"
        yield Line(group="devices", name="accelerator", state="warn", found="none; training uses the processor", remedy=remedy)


def _optional(name: str, told: dict[str, str]) -> Iterator[Line]:
    state, purpose = told["state"], _OPTIONAL.get(name, "")
    if state == "absent":
        if purpose:
            extra = _EXTRAS.get(name)
            remedy = install(extra) if extra else f"pip install {name}"
            yield Line(
                group="optional", name=name, state="warn", found=f"not installed; needed for {purpose} only", remedy=remedy
            )
        return
    if state == "ok":
        yield Line(group="optional", name=name, state="ok", found=told["found"])
        return
    if name in CLASHING:
        remedy = UNNEEDED.format(name=CLASHING[name])
    else:
        remedy = COMPILER if name == "torch.compile" else REINSTALL.format(name=name.lower())
    yield Line(group="optional", name=name, state="warn", found=told["found"], remedy=remedy)


def _try(names: Sequence[str], limit_s: float) -> dict[str, list[dict[str, str]]]:
    """Trials in one process after another: the next begins behind the one that crashed or hung."""
    found: dict[str, list[dict[str, str]]] = {}
    left = list(names)
    while left:
        output, end = _process(left, limit_s)
        for line in output.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told: dict[str, Any] = json.loads(line)
                found[told["trial"]] = told["lines"]
        left = left[len([name for name in left if name in found]) :]
        if left:
            found[left[0]] = [{"name": left[0], "state": "broken", "found": end, "remedy": ""}]
            left = left[1:]
    return {name: found[name] for name in names}


def _process(names: Sequence[str], limit_s: float) -> tuple[str, str]:
    """(what the trials printed, how their process ended)."""
    here = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
                   "HF_HUB_OFFLINE": "1"}  # fmt: skip
    command = [sys.executable, "-m", "peftlab.api._trials", *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False)
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        return output.decode() if isinstance(output, bytes) else output, f"hangs: no answer within {limit_s:g} s"
    if done.returncode < 0:
        return done.stdout, f"crashes: {signal.Signals(-done.returncode).name}"
    last = next(iter(reversed(done.stderr.strip().splitlines())), "")
    return done.stdout, f"ends the process with code {done.returncode}: {last}"[:200]


def _hub() -> Line:
    try:
        from huggingface_hub import constants
    except Exception as error:  # as above
        remedy = REINSTALL.format(name="huggingface_hub")
        return Line(group="connection", name="hub", state="fail", found=f"{type(error).__name__}: {error}"[:200], remedy=remedy)
    if constants.HF_HUB_OFFLINE:
        remedy = "only what lies in the cache or in local folders can be used; unset HF_HUB_OFFLINE to download"
        return Line(group="connection", name="hub", state="warn", found="HF_HUB_OFFLINE is set; not asked", remedy=remedy)
    problem = _reach(constants.ENDPOINT, HUB_TIMEOUT_S)
    if problem is None:
        return Line(group="connection", name="hub", state="ok", found=f"{constants.ENDPOINT} answers")
    remedy = "backbones and data must come from the package, the cache or local folders"
    return Line(group="connection", name="hub", state="warn", found=f"{constants.ENDPOINT}: {problem}"[:200], remedy=remedy)


def _reach(url: str, timeout_s: float) -> str | None:
    """Why the address does not answer; None if it does. In a thread, because looking up a name knows no time limit."""
    import urllib.error
    import urllib.request

    outcome: list[str | None] = [f"no answer within {timeout_s:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s):
                outcome[0] = None
        except urllib.error.HTTPError as error:  # an answer all the same, unless a proxy refuses
            outcome[0] = None if error.code < 500 and error.code != 407 else f"HTTP {error.code}"
        except (OSError, ValueError) as error:
            outcome[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s + 0.5)
    return outcome[0]
