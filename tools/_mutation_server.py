"""Runs tests against mutants, each in a process forked after everything is imported, so that it costs its tests and no more.

    python tools/_mutation_server.py measure SPEC.json    which tests run which lines, how long each takes, and whether all pass
    python tools/_mutation_server.py run SPEC.json        a line of JSON for every mutant

Only `tools/mutation.py` calls it, in a copy of the repository that nobody else uses. A mutant lies on disk while its tests run,
for the processes that tests start. In the process of the tests, the code of the functions that differ is exchanged. Where
something differs that is made on import (a constant, a default, a class variable), the tests are collected anew instead.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COLLECTED_ALONE = ("ray", "wandb", "mlflow", "optuna")  #: read their settings when first imported
OF_TESTING = ("pytest", "_pytest", "coverage", "__main__")


class Measure:
    """A plugin that writes down for each file of tests how long each takes, which fail, which lines it runs ("": on import)."""

    def __init__(self, coverage: Any, outputs: dict[str, str]) -> None:
        self.coverage, self.outputs = coverage, outputs
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        begun = sum(os.times()[:4])  # of the processor, so that a busy machine makes no test look long
        yield
        self.seconds[item.nodeid] = sum(os.times()[:4]) - begun
        self.coverage.switch_context("")
        file = item.nodeid.partition("::")[0]
        if nextitem is None or nextitem.nodeid.partition("::")[0] != file:
            self.write(file)

    def write(self, file: str) -> None:
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[str]]] = {}
        for measured in data.measured_files():
            relative = Path(measured).relative_to(Path.cwd()).as_posix()
            found = data.contexts_by_lineno(measured).items()
            own = {str(line): sorted(t for t in tests if not t or t in self.seconds) for line, tests in found}
            lines[relative] = {line: tests for line, tests in own.items() if tests}
        outside = [name for name, module in sys.modules.items() if is_outside(name, module)]
        found = {"seconds": self.seconds, "lines": lines, "failed": self.failed, "modules": outside}
        Path(self.outputs[file]).write_text(json.dumps(found))
        self.seconds, self.failed = {}, []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def is_outside(name: str, module: types.ModuleType) -> bool:
    """Whether a module can be imported once for all mutants: it is not of the repository, nor of what runs the tests."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    return name.partition(".")[0] not in (*OF_TESTING, *COLLECTED_ALONE) and not Path(file).is_relative_to(Path.cwd())


def measure(spec: dict[str, Any]) -> None:
    """Runs the tests without a mutant; a file of tests without any that is chosen leaves an empty answer."""
    import coverage

    collected = coverage.Coverage(data_file=None, include=[f"{Path.cwd()}/src/*"], config_file=False, messages=False)
    collected.start()
    code = pytest.main([*spec["arguments"], *spec["outputs"]], plugins=[Measure(collected, spec["outputs"])])
    collected.stop()
    for output in spec["outputs"].values():
        if not Path(output).exists():
            failed = [] if code in (0, 5) else [f"{output}: pytest ended with {code}"]
            Path(output).write_text(json.dumps({"seconds": {}, "lines": {}, "failed": failed, "modules": []}))


def functions_of(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """(qualified name, first line) -> code, of every function below a module's code."""
    found = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found[constant.co_qualname, constant.co_firstlineno] = constant
            found |= functions_of(constant)
    return found


def outermost_changes(before: types.CodeType, after: types.CodeType) -> list[types.CodeType] | None:
    """The changed functions of a module, or None where what it does on import has changed."""
    if shell(before) != shell(after):
        return None
    pairs = list(zip(inner(before), inner(after), strict=True))
    changed: list[types.CodeType] = []
    for a, b in pairs:
        if a == b:
            continue
        if a.co_flags & 0x0002:  # CO_NEWLOCALS: a function and no class body
            changed.append(b)
        else:
            deeper = outermost_changes(a, b)
            if deeper is None:
                return None
            changed += deeper
    return changed


def inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def shell(code: types.CodeType) -> tuple[Any, ...]:
    """A module's or a class body's own instructions and constants, without its functions'."""
    own = tuple(repr(c) for c in code.co_consts if not isinstance(c, types.CodeType))
    return code.co_code, own, code.co_names, len(inner(code))


Living = dict[tuple[str, str, int], list[types.FunctionType]]


def living(files: set[str]) -> Living:
    """(file, qualified name, first line) -> the functions there are. Asked once: to walk all objects copies them in a fork."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()  # what the tests froze when they were collected is not among the objects
    found: Living = {}
    for each in gc.get_objects():
        if isinstance(each, types.FunctionType) and (code := each.__code__).co_filename in files:
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(each)
    if frozen:
        gc.freeze()
    return found


def exchange(changed: list[types.CodeType], file: str, functions: Living) -> bool:
    """Gives every living function of ``file`` its changed code; False if one of them is nowhere to be found."""
    wanted: dict[tuple[str, int], types.CodeType] = {}
    for code in changed:
        wanted[code.co_qualname, code.co_firstlineno] = code
        wanted |= functions_of(code)
    if not all(functions.get((file, code.co_qualname, code.co_firstlineno)) for code in changed):
        return False
    for (name, line), code in wanted.items():
        for each in functions.get((file, name, line), []):
            try:
                each.__code__ = code
            except ValueError:  # another number of free variables
                return False
    return True


class Stopwatch:
    """The first failure, and whether time is left for another test."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.killer = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.killer:
            self.killer = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.killer:
            self.killer = f"import: {report.nodeid}"


def in_child(work: Callable[[], dict[str, Any]], limit: float, answer: Path) -> dict[str, Any]:
    """What ``work`` returns in a forked process of its own session, or how that ended."""
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        said: dict[str, Any] = {}
        try:
            said = work()
        except BaseException as error:  # also what pytest uses to leave: the mutant did not get through
            said = {"status": "killed", "by": f"{type(error).__name__}: {error}"[:200]}
        answer.write_text(json.dumps(said))
        os._exit(0)
    begun = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - begun > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"status": "timeout", "by": f"{limit:.0f} s"}
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what tests have left running
    if not answer.exists():
        return {"status": "killed", "by": f"the process died ({os.waitstatus_to_exitcode(status)})"}
    return json.loads(answer.read_text())


@contextlib.contextmanager
def on_disk(path: Path, source: str) -> Iterator[None]:
    """The mutant in place of the file, with a time of its own, so that no compiled file stands for it.

    Nor one of another mutant: processes that a test starts leave them, and two mutants are often of one size.
    """
    before, times = path.read_bytes(), path.stat()
    path.write_text(source, encoding="utf-8")
    os.utime(path, (times.st_atime, times.st_mtime + 1000 + zlib.crc32(source.encode()) % 100_000_000))
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def again(mutant: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The tests collected anew, peftlab imported anew."""
    plugin = Stopwatch(3600)
    code = pytest.main([*arguments, "-x", *mutant["tests"]], plugins=[plugin])
    if code == 0:
        return {"status": "survived", "ran": len(mutant["tests"])}
    return {"status": "killed" if plugin.killer or code == 1 else "broken", "by": plugin.killer or f"pytest ended with {code}"}


class Exchange:
    """A plugin that, instead of running the tests it has collected, runs some of them against each mutant."""

    def __init__(
        self, mutants: list[dict[str, Any]], note: Callable[[dict[str, Any], dict[str, Any]], None], folder: Path
    ) -> None:
        self.mutants, self.note, self.folder = mutants, note, folder

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = living({str(Path.cwd() / mutant["file"]) for mutant in self.mutants})
        gc.collect()
        gc.freeze()
        for mutant in self.mutants:
            path = Path.cwd() / mutant["file"]
            chosen = [items[test] for test in mutant["tests"] if test in items]
            if len(chosen) != len(mutant["tests"]):
                self.note(mutant, {"status": "broken", "by": "tests that are not there"})
                continue
            before = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
            after = compile(mutant["source"], str(path), "exec", dont_inherit=True)
            changed = outermost_changes(before, after)
            with on_disk(path, mutant["source"]):
                work = lambda: self.judge(changed, str(path), chosen, functions)  # noqa: E731, B023
                self.note(mutant, in_child(work, mutant["limit"], self.folder / "answer.json"))
        return True

    @staticmethod
    def judge(changed: list[types.CodeType] | None, file: str, chosen: list[Any], functions: Living) -> dict[str, Any]:
        from _pytest.runner import runtestprotocol

        if changed is None or not exchange(changed, file, functions):
            return {"status": "collect"}
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                return {"status": "killed", "by": item.nodeid}
        return {"status": "survived", "ran": len(chosen)}


def run(spec: dict[str, Any]) -> None:
    """Judges the mutants of ``spec``, and appends to ``results.jsonl`` in its folder."""
    folder = Path(spec["folder"])
    arguments = [*spec["arguments"], f"--basetemp={folder / 'basetemp'}"]
    later: list[dict[str, Any]] = [mutant for mutant in spec["mutants"] if mutant["collect"]]

    def note(mutant: dict[str, Any], said: dict[str, Any]) -> None:
        if said["status"] == "collect":
            later.append(mutant)
            (folder / "later.json").write_text(json.dumps([each["id"] for each in later]))
            return
        with (folder / "results.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"id": mutant["id"], "key": mutant["key"], **said}) + "\n")

    for name in spec["modules"]:  # once, for all that is forked
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    at_once = [mutant for mutant in spec["mutants"] if not mutant["collect"]]
    (folder / "later.json").write_text(json.dumps([each["id"] for each in later]))
    if at_once:
        files = sorted({test.partition("::")[0] for mutant in at_once for test in mutant["tests"]})
        child = os.fork()
        if child == 0:
            code = pytest.main([*arguments, *files], plugins=[Exchange(at_once, note, folder)])
            os._exit(0 if code in (0, 5) else 3)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"the tests could not be collected ({os.waitstatus_to_exitcode(status)})")
    wanted = set(json.loads((folder / "later.json").read_text()))
    for mutant in spec["mutants"]:
        if mutant["id"] in wanted:
            with on_disk(Path.cwd() / mutant["file"], mutant["source"]):
                work = lambda: again(mutant, arguments)  # noqa: E731, B023
                note(mutant, in_child(work, mutant["limit"] + 60, folder / "answer.json"))


def main() -> None:
    what, file = sys.argv[1:]
    spec = json.loads(Path(file).read_text())
    sys.path[:0] = [str(Path.cwd())]
    if what == "measure":
        measure(spec)
    else:
        sys.dont_write_bytecode = True
        run(spec)


if __name__ == "__main__":
    main()
