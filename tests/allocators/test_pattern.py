"""Ranks as written down: who matches what, and what is refused."""

from __future__ import annotations

import re

import pytest

from peftlab import registry
from peftlab.errors import OptionError
from peftlab.nn.roles import Site

SITES = [
    Site(name=f"blocks.{b}.attn.{role}", role=role, block=b, d_in=16, d_out=16 if role == "q" else 8)
    for b in range(12)
    for role in ("q", "v")
]


def initial(ranks: dict[str, int]) -> dict[str, int]:
    return registry.create("allocator", {"name": "pattern", "ranks": ranks}).initial(SITES, 4)


def test_names_go_before_roles_and_expressions_whatever_the_order() -> None:
    ranks = {"q": 3, r"blocks\.\d+\.attn\.v": 5, "blocks.1.attn.q": 7}
    found = initial(ranks)
    assert found == initial(dict(reversed(ranks.items())))
    assert found["blocks.1.attn.q"] == 7 and found["blocks.11.attn.q"] == 3  # blocks.1 is not a beginning of blocks.11
    assert {found[s.name] for s in SITES if s.role == "v"} == {5}


def test_rank_zero_is_not_adapted() -> None:
    assert sum(initial({"q": 0, "v": 1}).values()) == 12


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ({"q": 4}, "blocks.0.attn.v is matched by no key"),
        ({"q": 4, "v": 4, "k": 4}, "'k' matches none"),
        ({"q": 4, "v": 4, "blocks.12.attn.q": 4}, "'blocks.12.attn.q' matches none"),
        ({"q": 4, ".*": 2}, "different ranks"),
        ({"q": 4, "v": 9}, "rank 9 is above min(d_in, d_out) = 8 of blocks.0.attn.v"),
        ({"q": -1, "v": 1}, "negative"),
        ({"q(": 1}, "no regular expression"),
        ({}, "no ranks"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_refused(ranks: dict[str, int], words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        initial(ranks)
