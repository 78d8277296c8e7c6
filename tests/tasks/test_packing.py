"""Rows of several texts, against brute force and against the definition of the mask."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab.tasks._packing import block_causal_mask, first_fit_decreasing

lengths_and_capacity = st.lists(st.integers(1, 20), min_size=1, max_size=40).flatmap(
    lambda lengths: st.tuples(st.just(lengths), st.integers(max(lengths), 60))
)


@given(lengths_and_capacity)
def test_every_text_has_one_row_and_no_row_is_too_long(drawn: tuple[list[int], int]) -> None:
    lengths, capacity = drawn
    rows = first_fit_decreasing(lengths, capacity)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)
    assert sum(sum(lengths[i] for i in row) <= capacity / 2 for row in rows) <= 1  # two such rows would have become one


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_rows_are_nearly_as_few_as_can_be(lengths: list[int]) -> None:
    capacity = max(lengths) + 3
    fewest = min(
        max(places) + 1
        for places in itertools.product(range(len(lengths)), repeat=len(lengths))
        if all(sum(n for n, p in zip(lengths, places, strict=True) if p == row) <= capacity for row in set(places))
    )
    assert len(first_fit_decreasing(lengths, capacity)) <= 11 / 9 * fewest + 6 / 9


def test_a_token_sees_what_stands_before_it_in_its_own_text() -> None:
    texts = torch.tensor([[1, 1, 2, 2, 2, 0], [3, 4, 4, 0, 0, 0]])
    mask = block_causal_mask(texts)
    assert mask.shape == (2, 1, 6, 6) and mask.dtype == torch.bool
    for row, query, key in itertools.product(range(2), range(6), range(6)):
        allowed = key <= query and texts[row, key] == texts[row, query]
        assert bool(mask[row, 0, query, key]) == bool(allowed)
    assert mask.any(-1).all()
