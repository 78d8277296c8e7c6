"""A figure on the page is what was drawn: only shorter, and with nothing in it that could be taken for something else."""

from __future__ import annotations

import re

from peftlab.report.svg import FEW, _classed

POINT = '<use xlink:href="#m" x="{}" y="2" style="fill:var(--c0);stroke:#ffffff"/>'
RULE = re.compile(r"svg\.figure \.([\w-]+)\{([^}]*)\}")
SIZE = 'viewBox="0 0 9 9"'


def written_out(svg: str) -> str:
    """With every class replaced by its rules, and without the sheet."""
    sheet = re.search(r"<style>(.*?)</style>", svg)
    rules = dict(RULE.findall(sheet[1])) if sheet else {}
    without = re.sub(r"<style>.*?</style>", "", svg)
    return re.sub(r' class="([^"]*)"', lambda found: f' style="{rules[found[1]]}"' if found[1] in rules else found[0], without)


def test_what_is_drawn_alike_has_one_rule() -> None:
    svg = f"<svg {SIZE}>" + "".join(POINT.format(k) for k in range(5)) + '<path d="M 0 0" style="fill:none"/></svg>'
    short, sheet = _classed(svg, "f")
    assert sheet == "<style>svg.figure .f-0{fill:var(--c0);stroke:#ffffff}</style>"
    assert short.count('class="f-0"') == 5 and short.count("style=") == 1
    assert written_out(short.replace(">", f">{sheet}", 1)) == svg


def test_few_alike_and_definitions_keep_their_style() -> None:
    drawn = "".join(POINT.format(k) for k in range(FEW))
    svg = f"<svg {SIZE}><defs>{drawn * 3}</defs>{drawn}</svg>"
    assert _classed(svg, "f") == (svg, "")


def test_where_it_is_cut_off_belongs_to_its_rules() -> None:
    line = '<path d="M 0 0" clip-path="url(#f-p)" style="fill:none"/>'
    group = '<g clip-path="url(#f-p)">'  # has no style
    short, sheet = _classed(f"<svg {SIZE}>{group}{line * 3}</g></svg>", "f")
    assert "svg.figure .f-0{clip-path:url(#f-p);fill:none}" in sheet
    assert short == f"<svg {SIZE}>{group}" + '<path d="M 0 0" class="f-0"/>' * 3 + "</g></svg>"


def test_words_that_look_like_a_style_are_words() -> None:
    svg = f"<svg {SIZE}>" + '<text style="font-size:9px">a style="x" clip-path="url(#y)" style="z"</text>' * 4 + "</svg>"
    short, sheet = _classed(svg, "f")
    assert short.count('a style="x" clip-path="url(#y)" style="z"') == 4 and RULE.findall(sheet) == [("f-0", "font-size:9px")]
