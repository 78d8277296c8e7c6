"""LaTeX for tests, as the program runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peftlab.report.paper.compile import _latexmk, can_compile

needs_latex = pytest.mark.skipif(not can_compile(), reason="latexmk and pdflatex are not installed")
HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{lmodern,amsmath,amssymb,array,booktabs,siunitx}
\sisetup{detect-weight=true}
\begin{document}
"""


@contextmanager
def run_latex(body: str, *, fails: bool = False) -> Iterator[tuple[str, Path]]:
    """(log, folder) of a document with this body."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.tex").write_text(HEAD + body + "\n\\end{document}\n", encoding="utf-8")
        code, log = _latexmk(folder, 300)
        assert bool(code) == fails, log[-3000:]
        yield log, folder
