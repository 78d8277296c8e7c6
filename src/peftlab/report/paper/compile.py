"""latexmk, shut in: no shell, no files outside the folder, no start-up file of its own, a copy to work on."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from peftlab.errors import LatexError
from peftlab.records.commit import disk_errors, write_atomic

LIMIT_S = 600
INSTALL = (
    "install TeX (Debian, Ubuntu: apt-get install latexmk texlive-latex-recommended texlive-fonts-recommended texlive-science "
    "lmodern), or upload the folder to a LaTeX service"
)
_COMMAND = ["latexmk", "-norc", "-pdf", "-bibtex", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error"]
_LEFT_OUT = {"main.pdf", "compile.log", "kept"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A PDF and what its log says."""

    pdf: Path
    pages: int
    overfull_pt: float  #: how far the widest line or table sticks out; 0: nothing does
    undefined: list[str]  #: references and citations that lead nowhere


def can_compile() -> bool:
    """Whether latexmk and pdflatex are there."""
    return shutil.which("latexmk") is not None and shutil.which("pdflatex") is not None


def compile_paper(folder: Path, limit_s: float = LIMIT_S) -> Compiled:
    """``folder/main.pdf`` from ``folder/main.tex``.

    Raises:
        LatexError: LaTeX stops; ``folder/compile.log`` has its whole log.
        RecordError: the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="peftlab-paper-") as name:
        work = Path(name) / "paper"
        with disk_errors(folder):
            shutil.copytree(folder, work, ignore=lambda _, names: _LEFT_OUT & {*names}, symlinks=True)
        for path in work.rglob("*"):  # a link could lead out of the folder
            if path.is_symlink():
                path.unlink()
        log = _latexmk(work, limit_s)
        pdf = work / "main.pdf"
        if log[0] or not pdf.is_file():
            write_atomic(folder / "compile.log", log[1])
            raise LatexError(
                _first_error(log[1]), where=str(folder / "main.tex"), remedy="compile.log beside it has the whole log"
            )
        write_atomic(folder / "main.pdf", pdf.read_bytes())
        (folder / "compile.log").unlink(missing_ok=True)
        return read_log(folder / "main.pdf", log[1])


def _latexmk(work: Path, limit_s: float) -> tuple[int, str]:
    """Return code and log. ``openin_any``, ``openout_any``: p allows no absolute path and no parent folder."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "TEMP")}
    shut = {"openin_any": "p", "openout_any": "p", "shell_escape": "f", "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1",
            "max_print_line": "1000", "BIBINPUTS": ".:", "TEXMFOUTPUT": str(work)}  # fmt: skip
    command = [*_COMMAND, "-latexoption=-no-shell-escape", "main.tex"]
    try:
        done = subprocess.run(
            command, cwd=work, env={**kept, **shut}, capture_output=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise LatexError(f"LaTeX did not end within {limit_s:g} s", where="main.tex", remedy="look for a loop in it") from error
    path = work / "main.log"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    said = (done.stdout + done.stderr).decode(errors="replace")
    bib = work / "main.blg"
    return done.returncode, text + ("" if text else said) + (bib.read_text(errors="replace") if bib.is_file() else "")


def read_log(pdf: Path, log: str) -> Compiled:
    """Pages, overfull boxes and dangling references of a log."""
    pages = re.findall(r"Output written on .*?\((\d+) pages?", log)
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]
    undefined = re.findall(r"(?:Citation|Reference) [`'](.+?)' (?:on page \S+ )?undefined", log)
    return Compiled(
        pdf=pdf, pages=int(pages[-1]) if pages else 0, overfull_pt=max(wide, default=0.0), undefined=sorted(set(undefined))
    )


def _first_error(log: str) -> str:
    found = re.search(r"^(?:\./)?([\w./-]+\.(?:tex|sty|cls|bib|bbl):\d+: .+|! .+)$", log, re.MULTILINE)
    if found is None:  # BibTeX: what it expected, then the line
        found = re.search(r"^(.*---line \d+ of file .*)$", log, re.MULTILINE)
    return f"LaTeX stopped: {found[1]}" if found else "LaTeX stopped without naming an error"
