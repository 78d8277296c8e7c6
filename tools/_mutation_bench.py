"""Where mutants are judged: an environment with cosmic-ray, a copy of the repository, and which tests run which of its lines."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
import venv
from collections import Counter
from pathlib import Path
from typing import Any

from _mutation_areas import mirrors

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cosmic-ray==8.7.0", "coverage>=7.6")
ARGUMENTS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not gpu and not browser"]


def environment(folder: Path) -> Path:
    """The interpreter of the environment in ``folder``: this one's packages, and those of PACKAGES."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "host.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def copy_repository(target: Path) -> None:
    """The files under version control, and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if not (target / name).exists() or (target / name).read_bytes() != (ROOT / name).read_bytes():
            shutil.copy2(ROOT / name, target / name)
    for path in [path for top in ("src", "tests") for path in (target / top).rglob("*.py")]:
        if path.relative_to(target).as_posix() not in names:
            path.unlink()


class Bench:
    """A copy of the repository, and what is known about its tests."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder, self.copy = folder, root or folder / "copy"
        folder.mkdir(parents=True, exist_ok=True)
        if root is None:
            copy_repository(self.copy)
        self.sources = ""

    def about(self, source_files: list[str]) -> None:
        """What is measured from now on holds for these sources as they are."""
        self.sources = hashlib.sha256(b"".join((self.copy / file).read_bytes() for file in source_files)).hexdigest()

    def call(self, what: str, spec: dict[str, Any]) -> None:
        file = self.folder / f"{what}.json"
        file.write_text(json.dumps(spec))
        variables = {**os.environ, "PYTHONPATH": str(self.copy / "src"), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        variables |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
            variables.pop(name, None)
        server = Path(__file__).with_name("_mutation_server.py")
        with (self.folder / f"{what}.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, server, what, file],
                cwd=self.copy,
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            end = "\n".join((self.folder / f"{what}.log").read_text().splitlines()[-20:])
            raise SystemExit(f"the server ended with {done.returncode}:\n{end}")

    def results(self) -> dict[str, dict[str, Any]]:
        """Key of a mutant and its tests -> what became of it, also in an earlier call that was stopped."""
        file = self.folder / "results.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return {line["key"]: {name: line[name] for name in line if name not in ("key", "id")} for line in lines}

    def known(self, test_file: str) -> Path:
        digest = hashlib.sha256((self.copy / test_file).read_bytes() + self.sources.encode()).hexdigest()[:16]
        return self.folder / "measured" / f"{Path(test_file).stem}-{digest}.json"

    def measure(self, test_files: list[str]) -> list[dict[str, Any]]:
        """For each file of tests: seconds, lines run, modules. Raises SystemExit(2) where a test fails without a mutant."""
        (self.folder / "measured").mkdir(exist_ok=True)
        missing = {file: str(self.known(file)) for file in test_files if not self.known(file).exists()}
        if missing:
            self.call("measure", {"arguments": ARGUMENTS, "outputs": missing})
        measured = [json.loads(self.known(file).read_text()) for file in test_files]
        if failed := [test for each in measured for test in each["failed"]]:
            for file in test_files:
                if json.loads(self.known(file).read_text())["failed"]:
                    self.known(file).unlink()
            print(f"not judged: without any mutant these fail: {failed}", file=sys.stderr)
            raise SystemExit(2)
        return measured


def statement_lines(source: str, line: int) -> list[int]:
    """The lines of the innermost statement around ``line``; of a compound one its head only."""
    best: list[int] = [line]
    width = 10**9
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            continue
        first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
        last = node.body[-1].end_lineno if isinstance(node, ast.match_case) else node.end_lineno
        body = getattr(node, "body", None)
        if body:
            last = max(first, body[0].lineno - 1)
        assert last is not None
        if first <= line <= last and last - first < width:
            best, width = list(range(first, last + 1)), last - first
    return best


def choose_tests(file: str, lines: list[int], measured: list[dict[str, Any]], budget: float) -> tuple[list[str], bool]:
    """Tests that run one of the lines, the mirroring file and the quick first, up to ``budget`` seconds; does it run on import?

    What runs on import (a default, a constant) is tested by whatever runs any line of the file.
    """
    seconds: dict[str, float] = {}
    direct: set[str] = set()
    any_line: set[str] = set()
    collect = False
    for each in measured:
        seconds |= each["seconds"]
        for line, tests in each["lines"].get(file, {}).items():
            any_line |= set(tests) - {""}
            if int(line) in lines:
                collect |= "" in tests
                direct |= set(tests) - {""}
    candidates = any_line if collect else direct
    files = {test: test.partition("::")[0] for test in candidates}
    cost = Counter()
    for test in candidates:
        cost[files[test]] += seconds[test]

    def order(test: str) -> tuple[Any, ...]:
        return not mirrors(file, files[test]), test not in direct, cost[files[test]], files[test], seconds[test], test

    chosen: list[str] = []
    spent = 0.0
    for test in sorted(candidates, key=order):
        if len(chosen) >= 3 and spent + seconds[test] > budget:
            continue
        chosen.append(test)
        spent += seconds[test]
    chosen.sort(key=lambda test: (not mirrors(file, files[test]), cost[files[test]], files[test], seconds[test]))
    return chosen, collect
