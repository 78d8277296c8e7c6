"""Several models as one: what is not the same for all is computed member by member, or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftlab.nn.stacked import OneByOne, Seat, Seats, Unstackable, join


class Scaled(nn.Module):
    """A trained layer in a container with a factor of its own; without a ``base_layer`` that would give it away."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.inner = factor, nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.factor * self.inner(x)


class Wrapped(nn.Module):
    """As libraries adapt layers: looks at the weight of a layer within, where a layer for all has none."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer, self.inner = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.base_layer.requires_grad_(False)
        nn.init.eye_(self.base_layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x @ self.inner.weight


def models(*layers: nn.Module) -> list[nn.Module]:
    frozen = nn.Linear(4, 4)
    frozen.requires_grad_(False)
    made = []
    for layer in layers:
        made.append(nn.Sequential(nn.Linear(4, 4), layer))
        made[-1][0].load_state_dict(frozen.state_dict())
        made[-1][0].requires_grad_(False)
    return made


def check(members: list[nn.Module]) -> nn.Module:
    """The joint module, which gives what each gives alone."""
    for number, member in enumerate(members):
        for parameter in member[1].parameters():  # type: ignore[index]
            if parameter.requires_grad:
                nn.init.constant_(parameter, 0.1 * (number + 1))
    joint = join(members)
    joint.seats.taken = [Seat(i, 3 * i, 3 * i + 3, torch.Generator()) for i in range(len(members))]
    x = torch.rand(3 * len(members), 4)
    alone = torch.cat([member(x[3 * i : 3 * i + 3]) for i, member in enumerate(members)])
    torch.testing.assert_close(joint.module(x), alone)
    return joint.module


def test_a_container_that_differs_in_an_attribute_is_every_members_own() -> None:
    assert isinstance(check(models(Scaled(1.0), Scaled(16.0)))[1], OneByOne)  # type: ignore[index]
    assert isinstance(check(models(Scaled(2.0), Scaled(2.0)))[1], Scaled)  # type: ignore[index]


def test_an_adapted_layer_that_is_not_fused_is_every_members_own() -> None:
    assert isinstance(check(models(Wrapped(), Wrapped()))[1], OneByOne)  # type: ignore[index]


def test_models_that_differ_in_themselves_are_not_joined() -> None:
    one, other = models(Scaled(1.0), Scaled(1.0))
    other.scale = 2.0  # type: ignore[assignment]
    with pytest.raises(Unstackable, match="differ in scale"):
        join([one, other])


def test_of_a_place_with_many_layers_libraries_see_tensors_and_no_layers() -> None:
    place = OneByOne([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))], Seats())
    assert not hasattr(place, "0") and not hasattr(place, "nothing")
    linear = nn.Linear(2, 2)
    assert OneByOne([linear, nn.Linear(2, 2)], Seats()).weight is linear.weight
