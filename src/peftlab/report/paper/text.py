"""Text that LaTeX prints as it stands: whatever a name, a question or a label holds, it compiles and runs nothing."""

from __future__ import annotations

import re
import unicodedata

_ASCII = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}",  # never the optional argument of what stands before
}  # fmt: skip
_MATH = {
    "−": "-", "±": r"\pm", "×": r"\times", "·": r"\cdot", "÷": r"\div", "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "≈": r"\approx",
    "∞": r"\infty", "→": r"\rightarrow", "←": r"\leftarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "∈": r"\in",
    "∑": r"\sum", "∏": r"\prod", "√": r"\surd", "∂": r"\partial", "∇": r"\nabla", "∝": r"\propto", "‖": r"\|", "⊤": r"\top",
    "∘": r"\circ", "⊗": r"\otimes", "⊕": r"\oplus", "∼": r"\sim", "≪": r"\ll", "≫": r"\gg", "∀": r"\forall", "∃": r"\exists",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "ι": "iota",
    "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "ς": "varsigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta",
    "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_TEXT = {
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "„": r"\quotedblbase{}", "…": r"\dots{}",
    "•": r"\textbullet{}", "°": r"\textdegree{}", "§": r"\S{}", "¶": r"\P{}", "©": r"\textcopyright{}",
    "®": r"\textregistered{}", "™": r"\texttrademark{}", "€": r"\texteuro{}", "£": r"\pounds{}", "¥": r"\textyen{}",
    "µ": r"\textmu{}", "«": r"\guillemotleft{}", "»": r"\guillemotright{}", "¡": r"\textexclamdown{}",
    "¿": r"\textquestiondown{}", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}",
    "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "đ": r"\dj{}", "Đ": r"\DJ{}", "ð": r"\dh{}", "Ð": r"\DH{}",
    "þ": r"\th{}", "Þ": r"\TH{}", "ı": r"\i{}", "\u00a0": "~", "\u202f": r"\,", "\u00ad": r"\-",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u0308": '"',
    "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k",
}  # fmt: skip
_CHARACTERS = {
    **_ASCII,
    **{c: rf"\ensuremath{{{code}}}" for c, code in _MATH.items()},
    **{c: rf"\ensuremath{{\{name}}}" for c, name in _GREEK.items()},
    **_TEXT,
}
_LIGATURES = re.compile(r"(?<=-)-|(?<=,),|(?<=')'")
#: spaces at which a line must not end: before a unit, and within ``n = 3`` and ``p < 0.001``
_BOUND = re.compile(r"(?<=\d) (?=%)|(?<=\b[np]) (?=[=<>] )|(?<=\b[np] [=<>]) (?=\d)")
_LONGEST = 12  #: characters of a word that may stand without a place to break it


class Tex(str):
    """LaTeX as it is; every other text is escaped before it reaches a file."""

    __slots__ = ()


def escape(text: object) -> Tex:
    """Any text as LaTeX (pdfLaTeX, T1) that prints it.

    Line breaks become spaces; a character that the fonts lack is told by its code point, as ``[U+4E2D]``.
    """
    if isinstance(text, Tex):
        return text
    plain = _BOUND.sub("\u00a0", unicodedata.normalize("NFC", str(text)))
    plain = re.sub(r"[\s\x85]+", " ", plain.replace("\u00a0", "\ue000").replace("\u202f", "\ue001"))
    plain = plain.replace("\ue000", "\u00a0").replace("\ue001", "\u202f")
    return Tex("".join(_character(c) for c in _LIGATURES.sub(lambda m: "\ue002" + m[0], plain)))


def _character(char: str) -> str:
    if char == "\ue002":
        return "{}"
    if char in _CHARACTERS:
        return _CHARACTERS[char]
    if " " <= char <= "~":
        return char
    base, *marks = unicodedata.normalize("NFD", char)
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii() and base.isalpha():
        base = {"i": r"\i{}", "j": r"\j{}"}.get(base, base) if marks[0] != "\u0328" else base
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    plain = unicodedata.normalize("NFKD", char)
    if plain != char and plain.isascii() and plain.isprintable():
        return "".join(_CHARACTERS.get(c, c) for c in plain)
    return rf"{{[}}U+{ord(char):04X}{{]}}"


def breakable(text: object) -> Tex:
    """As :func:`escape`, with places to break long words (labels, paths, hashes) without a hyphen."""
    if isinstance(text, Tex):
        return text
    parts = []
    for word in re.split(r"(\s+)", _BOUND.sub("\u00a0", str(text))):
        pieces = re.findall(r"[^\[\],./_=:+-]{1,12}[\[\],./_=:+-]?|[\[\],./_=:+-]", word) if len(word) > _LONGEST else [word]
        parts.append(r"\allowbreak{}".join(escape(piece) for piece in pieces))
    return Tex("".join(parts))


def code(text: object) -> Tex:
    """In the typewriter font, breakable."""
    return Tex(rf"\texttt{{{breakable(text)}}}")


def show_seconds(value: float) -> str:
    """Three significant digits, from a thousand on whole: ``8.14``, ``3,612``. Also of minutes and hours."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


_GREEK_WORDS = "alpha|beta|gamma|delta|eta|theta|lambda|mu|xi|pi|rho|sigma|tau|phi|Sigma|Lambda|Delta"
_PROSE = re.compile(
    r"``(?P<code>[^`]+)``"
    r"|:[a-z]+:`(?P<role>[^`]+)`"
    r"|(?P<arrow><-|->)"
    rf"|(?<![\w\\])(?P<base>[A-Za-z]|d[A-Z]|mean|{_GREEK_WORDS})_(?P<sub>[A-Za-z0-9]+)(?![\w])(?P<power>\^[T2+])?"
    rf"|(?<![\w\\])(?P<greek>{_GREEK_WORDS})(?![\w])"
    r"|(?<!\w)(?P<letter>[A-Z]|W~)(?P<transpose>\^[T2+])"
    r"|(?<!\w)(?P<frozen>W0)(?!\w)|(?<!\w)(?P<tilde>W~)"
)


def prose(text: str) -> Tex:
    """A docstring as LaTeX: paragraphs, ``* `` lists, ``code``, and subscripts, powers and Greek letters of its formulae."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        items = re.split(r"(?:^|\n)\* ", paragraph)
        if len(items) > 1:
            head = [_inline(items[0])] if items[0].strip() else []
            listed = "\n".join(rf"  \item {_inline(item)}" for item in items[1:])
            blocks.append("\n".join([*head, r"\begin{itemize}", listed, r"\end{itemize}"]))
        else:
            blocks.append(_inline(paragraph))
    return Tex("\n\n".join(blocks))


def _inline(text: str) -> str:
    parts, end = [], 0
    text = " ".join(text.split())
    for match in _PROSE.finditer(text):
        parts += [escape(text[end : match.start()]) if match.start() > end else "", _typeset(match)]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _typeset(match: re.Match[str]) -> str:
    found = {name: value for name, value in match.groupdict().items() if value is not None}
    if "code" in found:
        return code(found["code"])
    if "role" in found:
        return code(found["role"].rpartition(".")[2])
    if "arrow" in found:
        return r"$\leftarrow$" if found["arrow"] == "<-" else r"$\rightarrow$"
    if "frozen" in found:
        return "$W_{0}$"
    if "tilde" in found:
        return r"$\tilde{W}$"
    if "greek" in found:
        return rf"$\{found['greek']}$"
    base = found.get("base") or found.get("letter") or ""
    if base.endswith("~"):
        base = rf"\tilde{{{base[0]}}}"
    elif len(base) > 2 or base in _GREEK_WORDS.split("|"):
        base = r"\mathrm{mean}" if base == "mean" else rf"\{base}"
    power = {"^T": r"^{\top}", "^2": "^{2}", "^+": "^{+}"}.get(found.get("power") or found.get("transpose") or "", "")
    sub = found.get("sub", "")
    if sub == "bar":
        return rf"$\bar{{{base}}}{power}$"
    below = f"_{{{sub}}}" if len(sub) == 1 else rf"_{{\mathrm{{{sub}}}}}" if sub else ""
    return f"${base}{below}{power}$"
