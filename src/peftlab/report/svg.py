"""Figures as part of a page: its colours, its letters, ids of their own, and no style told more often than needed."""

from __future__ import annotations

import re
from collections import Counter
from io import StringIO

from matplotlib.figure import Figure

from peftlab.report.style import DARK_LINE, PALETTE, style

LARGEST_SCALE = 1.05  #: of a figure on the page
FEW = 2  #: elements for which a style stands where it is used
_DEFINITIONS = re.compile(r"(<defs>.*?</defs>)", re.DOTALL)
_TAG = re.compile(r"<\w[^<>]*>")
_STYLE = re.compile(r' style="([^"]*)"')
_CLIPPED = re.compile(r' clip-path="(url\([^"]*\))" style="')


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for a page: no fixed size, colours of arms, text and lines the page's own (``--c0`` ...), ids
    unique by ``name``."""
    stream = StringIO()
    with style():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg).replace('href="#', f'href="#{name}-')
    svg = svg.replace("#000000", "currentColor").replace(DARK_LINE.lower(), "currentColor")
    for index, color in enumerate(PALETTE):
        svg = svg.replace(color.lower(), f"var(--c{index})")
    svg, sheet = _classed(_compact(svg), name)
    opening = f'<svg role="img" aria-label="{_attribute(description)}" class="figure"'
    svg = re.sub(r'<svg ((?:[^>]*?))\bheight="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\bwidth="([\d.]+)pt"([^>]*>)', lambda tag: _limited_width(tag) + sheet, svg, count=1)
    return svg.replace("<svg", opening, 1)


def _compact(svg: str) -> str:
    """A third smaller, the same picture: hundredths of a point, groups without names, no turns by nothing, the page's font."""
    svg = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*|font-size: ([\d.]+)px; font-family: [^;\"]*", r"font-size: \1\2px", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"(?<=>)\s+(?=<)", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return re.sub(r'style="[^"]*"', lambda rules: rules[0].replace("; ", ";").replace(": ", ":"), svg)


def _classed(svg: str, name: str) -> tuple[str, str]:
    """A fourth smaller again, with its style sheet: hundreds of points have one style, which then stands there once.

    Definitions keep theirs where they are: a rule of the page need not reach into what a ``use`` repeats (SVG 2, 5.6).
    """
    parts = _DEFINITIONS.split(svg)
    drawn = [_TAG.sub(lambda tag: _CLIPPED.sub(r' style="clip-path:\1;', tag[0]), part) for part in parts[::2]]
    counts = Counter(rules for part in drawn for tag in _TAG.findall(part) for rules in _STYLE.findall(tag))
    classes = {rules: f"{name}-{k}" for k, (rules, count) in enumerate(counts.most_common()) if count > FEW}

    def short(style: re.Match[str]) -> str:
        return f' class="{classes[style[1]]}"' if style[1] in classes else style[0]

    parts[::2] = [_TAG.sub(lambda tag: _STYLE.sub(short, tag[0]), part) for part in drawn]
    # ``svg.figure``: what a figure says of its text has to be stronger than what plots.css says of all figures' text
    sheet = "".join(f"svg.figure .{shortened}{{{rules}}}" for rules, shortened in classes.items())
    return "".join(parts), f"<style>{sheet}</style>" if sheet else ""


def _limited_width(match: re.Match[str]) -> str:
    """As wide as the page allows, but no larger than its letters, of 12 points, are beside the page's."""
    return f'{match[1]} style="max-width:{LARGEST_SCALE * float(match[2]):.0f}pt"{match[3]}'


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
