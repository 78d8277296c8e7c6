"""Seeds derived from seeds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peftlab.nn.head import initialise_head
from peftlab.nn.seeding import derive, generator, seed_default, seeded

PATHS = st.lists(st.one_of(st.text(max_size=5), st.integers(0, 9)), max_size=3).map(tuple)


@given(st.integers(0, 2**40), PATHS, PATHS)
def test_another_purpose_another_seed(seed: int, a: tuple, b: tuple) -> None:
    assert 0 <= derive(seed, *a) < 2**63
    assert (derive(seed, *a) == derive(seed, *b)) == (a == b)


def test_the_definition() -> None:
    digest = hashlib.sha256(b"(3, 'head')").digest()
    assert derive(3, "head") == int.from_bytes(digest[:8], "big") // 2
    assert derive(np.int64(3), "head") == derive(3, "head")  # type: ignore[arg-type]


def test_seeded_leaves_the_default_generator_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with seeded(1, "x"):
        first = torch.rand(3)
    with pytest.raises(ValueError, match="inside"), seeded(1, "x"):
        raise ValueError("inside")
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(1, "x"):
        assert torch.equal(torch.rand(3), first)
    assert not torch.equal(torch.rand(3, generator=generator(2, "x")), first)


def test_a_head_starts_as_vit_heads_do() -> None:
    head = nn.Linear(400, 500)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    initialise_head(head, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert head.bias.abs().max() == 0
    assert head.weight.abs().max() <= 0.04
    # standard deviation of a normal cut at two deviations: 0.02 * 0.87962566 (scipy.stats.truncnorm(-2, 2).std())
    assert head.weight.std().item() == pytest.approx(0.02 * 0.87962566, rel=0.01)
    again = nn.Linear(400, 500)
    initialise_head(again, seed=4)
    assert torch.equal(again.weight, head.weight)
    initialise_head(again, seed=5)
    assert not torch.equal(again.weight, head.weight)


def test_dropout_draws_what_it_draws_after_torch_itself_is_seeded() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        wanted = nn.functional.dropout(torch.ones(50), 0.5)
        seed_default(7, torch.device("cpu"))
        assert torch.equal(nn.functional.dropout(torch.ones(50), 0.5), wanted)
