"""Programs that the doctor lets do one small thing each: compiler, browser, LaTeX."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

LIMIT_S = 60.0
COMPILER = "optional: install a C++ compiler and Python's headers (Debian: apt install g++ python3-dev)"
_LATEX = "needed for `peftlab paper` only; install TeX Live (docs/paper.md says which parts)"
_BROWSER = "any browser opens report/index.html; to run the browser tests install chromium and chromedriver"
_PAPER = "\\documentclass{article}\\usepackage{booktabs,amsmath}\\begin{document}$\\frac12$\\end{document}\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that was looked at."""

    group: str
    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def tools(full: bool) -> Iterator[Line]:
    if not full:
        yield _compiler()
    browser = next((p for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (p := shutil.which(n))), None)
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom", "data:text/html,works"]
    yield _tool("chromium", [browser, *arguments] if browser else None, "works", _BROWSER)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trial.tex").write_text(_PAPER, encoding="ascii")
        arguments = ["-norc", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "trial.tex"]
        both = shutil.which("latexmk") if shutil.which("pdflatex") else None
        yield _tool("LaTeX", [both, *arguments] if both else None, "Output written on trial.pdf", _LATEX, folder)


def _tool(name: str, command: list[str] | None, sign: str, remedy: str, folder: str | None = None) -> Line:
    """A program doing one small thing; ``sign`` is what it then prints."""
    if command is None:
        return Line(group="tools", name=name, state="warn", found="not found", remedy=remedy)
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, cwd=folder, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Line(group="tools", name=name, state="warn", found=f"{command[0]} does not run: {error}"[:200], remedy=remedy)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode == 0 and sign in said:
        return Line(group="tools", name=name, state="ok", found=f"{command[0]} works")
    first = next((line for line in said.splitlines() if line.startswith("!") or "rror" in line), f"code {done.returncode}")
    return Line(group="tools", name=name, state="warn", found=f"{command[0]}: {first}"[:200], remedy=remedy)


def _compiler() -> Line:
    """torch.compile translates to C++ on a processor: a compiler, and Python's headers. ``--full`` really compiles."""
    name = "torch.compile"
    command = next((p for n in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if n and (p := shutil.which(n))), None)
    if command is None:
        return Line(group="tools", name=name, state="warn", found="no C++ compiler", remedy=COMPILER)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text("#include <Python.h>\nint main() { return 0; }\n", encoding="ascii")
        arguments = [command, "-c", str(source), "-o", str(source.with_suffix(".o")), f"-I{sysconfig.get_path('include')}"]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Line(group="tools", name=name, state="warn", found=f"{command} does not run: {error}", remedy=COMPILER)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), "failed")
        return Line(group="tools", name=name, state="warn", found=f"{command}: {first[:150]}", remedy=COMPILER)
    found = f"{command} compiles against Python {platform.python_version()}; --full tries torch.compile itself"
    return Line(group="tools", name=name, state="ok", found=found)
