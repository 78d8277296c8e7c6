"""Text that LaTeX prints as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.report.paper.text import Tex, breakable, code, escape, prose, show_seconds
from tests.report.paper.latex import needs_latex, run_latex

HOSTILE = [
    r"\write18{touch stolen}", r"\immediate\write18{touch stolen}", r"\input{/etc/passwd}", r"\input|'touch stolen'",
    r"\openout5=stolen \write5{x}", r"\csname end\endcsname", r"\end{document}", r"^^5cinput", "a$b%c&d#e_f{g}h^i~j\\k",
    "line\nbreak\r\n\n\ntwo", "\\\\[1cm]", "[x] ]", "``--''---,,<<>>?`!`", "日本語 Ω ≤ é ł ß “q” … \u200b\U0001f600 \u0301",
    "\x00\x07\x1b\x7f\ufffe", "%", "\\", "{", "}", "}}}\\fi\\fi", "#1", "\\result{x}", "a" * 300, "-" * 50, "~/.ssh",
    "$$\\loop\\repeat",
]  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40), st.text(alphabet="\\{}$%&#_^~[]-`'\"<>| ab18\n", max_size=40))
#: escaped -> plain, written out here anew
PLAIN = {
    r"\textbackslash{}": "\\", r"\&": "&", r"\%": "%", r"\$": "$", r"\#": "#", r"\_": "_", r"\{": "{", r"\}": "}",
    r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|",
    r"\textquotedbl{}": '"', r"\textasciigrave{}": "`", "{[}": "[", "{]}": "]", r"\allowbreak{}": "", "{}": "", "~": " ",
}  # fmt: skip


def unescape(tex: str) -> str:
    pattern = "|".join(sorted(map(re.escape, PLAIN), key=len, reverse=True))
    return re.sub(pattern, lambda m: PLAIN[m[0]], tex)


@given(st.text(alphabet=[chr(c) for c in range(32, 127)]))
def test_nothing_is_lost_of_ascii(text: str) -> None:
    for made in (escape(text), breakable(text)):
        assert unescape(made) == re.sub(r"\s+", " ", text)


@given(texts)
def test_what_is_left_is_ascii_without_commands_of_the_text(text: str) -> None:
    made = escape(text)
    assert made.isascii() and made.isprintable()
    rest = re.sub(
        r"\\(?:text[a-z]+\{\}|ensuremath\{\\?[A-Za-z|-]+\}|[&%$#_{}]|[a-zA-Z]+\{\}|,|-|[`'^~=.\"a-zH]\{(?:\\[ij]\{\}|\w)\})|~",
        "",
        made,
    )
    assert not re.search(r"[\\$%&#_^~]", rest), made


def test_no_line_ends_inside_a_number() -> None:
    assert escape("0.207 % of 12 %, n = 3, p < 0.001") == r"0.207~\% of 12~\%, n~=~3, p~\textless{}~0.001"
    assert breakable("lora reached 97.68 % (n = 3)") == r"lora reached 97.68~\% (n~=~3)"
    assert escape("in = 3 or a %") == r"in = 3 or a \%"  # no number, and no n


def test_what_is_latex_stays_so() -> None:
    assert escape(Tex(r"\emph{x}")) == r"\emph{x}"
    assert code("a_b") == r"\texttt{a\_b}"
    assert escape("−0.5 é 日") == r"\ensuremath{-}0.5 \'{e} {[}U+65E5{]}"


@given(st.floats(0.001, 1e9))
def test_times_have_no_exponent(value: float) -> None:
    shown = show_seconds(value)
    assert "e+" not in shown and float(shown.replace(",", "")) == pytest.approx(value, rel=0.00501)
    assert [show_seconds(v) for v in (8.136, 999.4, 999.7, 3612.4, 86_400.0)] == ["8.14", "999", "1,000", "3,612", "86,400"]


def test_docstrings_become_prose() -> None:
    made = prose(
        "h = W0 x + (alpha/r) B A x, with ``rank_pattern`` and d_in.\n\nTwo:\n* W_down and :class:`a.Curve`\n* A^T -> I_bar"
    )
    assert made.replace(r"\allowbreak{}", "") == (
        r"h = $W_{0}$ x + ($\alpha$/r) B A x, with \texttt{rank\_pattern} and $d_{\mathrm{in}}$."
        "\n\nTwo:\n\\begin{itemize}\n"
        r"  \item $W_{\mathrm{down}}$ and \texttt{Curve}"
        "\n"
        r"  \item $A^{\top}$ $\rightarrow$ $\bar{I}$"
        "\n\\end{itemize}"
    )


@needs_latex
@pytest.mark.slow
@settings(max_examples=4)
@given(st.lists(texts, min_size=120, max_size=120))
def test_anything_compiles_as_text_and_runs_nothing(strings: list[str]) -> None:
    body = "\n\n".join(f"x {escape(s)} y {breakable(s)} \\section{{{escape(s)}}} {code(s)}" for s in strings + HOSTILE)
    with run_latex(body) as (log, folder):
        assert "Output written" in log
        assert not list(folder.rglob("stolen*"))


@needs_latex
def test_the_hostile_list_compiles(tmp_path: Path) -> None:
    body = "\n\n".join(
        rf"\begin{{tabular}}{{ll}} a & b \\ {escape(s)} & {breakable(s)} \\ \end{{tabular}} \result{{k{i}}}"
        for i, s in enumerate(HOSTILE)
    )
    macros = "\n".join(rf"\expandafter\def\csname peftlab:k{i}\endcsname{{{escape(s)}}}%" for i, s in enumerate(HOSTILE))
    define = r"\newcommand\result[1]{\csname peftlab:#1\endcsname}"
    with run_latex(f"{define}\n{macros}\n{body}") as (log, folder):
        assert "Output written" in log
        assert not list(folder.rglob("stolen*"))


@needs_latex
def test_the_compiler_itself_is_shut_in(tmp_path: Path) -> None:
    """What an author's own section could do to whoever compiles it."""
    secret = tmp_path / "secret.tex"
    secret.write_text("TOLD")
    with run_latex(r"a \immediate\write18{touch stolen} b") as (log, folder):
        assert not list(folder.rglob("stolen*"))
    with run_latex(rf"a \input{{{secret}}} b", fails=True) as (log, _):
        assert "TOLD" not in log and "Output written" not in log
