"""Triplets that come and go: the function and the moments of those that stay are kept, and what is exported is the product."""

from __future__ import annotations

import torch
from torch import nn

from peftlab.nn.triplets import TripletLinear

D_IN, D_OUT, RANK, SCALE = 40, 24, 3, 1.5


def layer() -> TripletLinear:
    """With values other than zero everywhere."""
    torch.manual_seed(0)
    made = TripletLinear(nn.Linear(D_IN, D_OUT), RANK, SCALE, 0.0, torch.Generator().manual_seed(1))
    made.singular_values.data = torch.tensor([[0.5], [-2.0], [3.0]])
    return made


def trained(made: TripletLinear) -> torch.optim.AdamW:
    """AdamW after a step, so that there are moments."""
    optimizer = torch.optim.AdamW([made.P, made.singular_values, made.Q], lr=1e-2)
    made(torch.randn(5, D_IN, generator=torch.Generator().manual_seed(2))).square().mean().backward()
    optimizer.step()
    return optimizer


def test_at_the_start_there_is_no_update_and_values_are_small() -> None:
    base = nn.Linear(D_IN, D_OUT)
    made = TripletLinear(base, 50, SCALE, 0.0, torch.Generator().manual_seed(1))
    x = torch.randn(4, D_IN)
    assert torch.equal(made(x), base(x)) and not made.singular_values.any()
    for values in (made.P.detach(), made.Q.detach()):
        assert 0.018 < float(values.std()) < 0.022 and abs(float(values.mean())) < 0.003


def test_what_is_appended_is_small_and_new_and_the_rest_stays() -> None:
    made = layer()
    optimizer = trained(made)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    moments = {name: optimizer.state[getattr(made, name)]["exp_avg"].clone() for name in ("P", "singular_values", "Q")}
    made.append(60, 1e-5, torch.Generator().manual_seed(3), optimizer)
    assert made.rank == RANK + 60 and made.P.shape == (D_OUT, RANK + 60) and made.singular_values.shape == (RANK + 60, 1)
    new = {"P": made.P[:, RANK:], "Q": made.Q[RANK:], "singular_values": made.singular_values[RANK:]}
    old = {"P": made.P[:, :RANK], "Q": made.Q[:RANK], "singular_values": made.singular_values[:RANK]}
    for name in new:
        state = optimizer.state[getattr(made, name)]["exp_avg"]
        assert torch.equal(old[name], before[name])
        assert state.shape == getattr(made, name).shape
        assert torch.equal(state[:, :RANK] if name == "P" else state[:RANK], moments[name])
        assert not (state[:, RANK:] if name == "P" else state[RANK:]).any()
    assert torch.equal(new["singular_values"], torch.full((60, 1), 1e-5))
    for name in ("P", "Q"):
        assert 0.018 < float(new[name].detach().std()) < 0.022 and abs(float(new[name].detach().mean())) < 0.003


def test_the_first_are_kept_with_their_moments() -> None:
    made = layer()
    optimizer = trained(made)
    p, q = made.P.detach().clone(), made.Q.detach().clone()
    moments = {name: optimizer.state[getattr(made, name)]["exp_avg"].clone() for name in ("P", "Q")}
    made.truncate(2, optimizer)
    assert made.rank == 2 and torch.equal(made.P, p[:, :2]) and torch.equal(made.Q, q[:2])
    assert torch.equal(optimizer.state[made.P]["exp_avg"], moments["P"][:, :2])
    assert torch.equal(optimizer.state[made.Q]["exp_avg"], moments["Q"][:2])
    made.set_rank(5)
    assert (made.P.shape, made.singular_values.shape, made.Q.shape) == ((D_OUT, 5), (5, 1), (5, D_IN))


def test_the_product_of_what_survives_is_the_update() -> None:
    made = layer()
    made.singular_values.data[1] = 0.0
    assert made.surviving().tolist() == [0, 2]
    down, up = made.exported()
    assert down.shape == (2, D_IN) and up.shape == (D_OUT, 2)
    x = torch.randn(6, D_IN)
    torch.testing.assert_close(made(x) - made.base_layer(x), SCALE * x @ (up @ down).T, rtol=1e-4, atol=1e-6)
    one = made.chosen(torch.tensor([2]))
    torch.testing.assert_close(one[1] @ one[0], 3.0 * torch.outer(made.P[:, 2], made.Q[2]).detach())


def test_who_watches_in_training_is_shown_what_goes_in_and_what_comes_out() -> None:
    made, x = layer(), torch.randn(6, D_IN)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    assert made.plain_only == ""
    made.watch = lambda inputs, update: seen.append((inputs, update))
    assert made.plain_only == "an allocator watches its update"
    out = made(x)
    ((inputs, update),) = seen
    assert torch.equal(inputs, x) and not inputs.requires_grad and update.requires_grad
    torch.testing.assert_close(out, made.base_layer(x) + update)
    with torch.no_grad():
        made(x)
    assert len(seen) == 1, "nothing is watched where no gradient is asked for"


def test_the_product_of_the_factors_is_the_update() -> None:
    made, x = layer(), torch.randn(6, D_IN)
    down, up = made.factors()
    torch.testing.assert_close(made(x) - made.base_layer(x), SCALE * x @ (up @ down).T, rtol=1e-4, atol=1e-6)
