"""Many hooks as one: who scales a step is done before anybody acts on the model, in whatever order they stand."""

from __future__ import annotations

import pytest

from peftlab.nn.hooks import HookChain, TrainingHook


class Noted(TrainingHook):
    """Says when it is called."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def after_update(self, step: int) -> None:
        self.said.append(f"{self.name} scales {step}")

    def after_step(self, step: int, updated: bool = True) -> None:
        self.said.append(f"{self.name} acts {step}")


@pytest.mark.parametrize("names", [("quantizer", "allocator"), ("allocator", "quantizer")])
def test_every_hook_has_scaled_the_step_before_one_acts_on_it(names: tuple[str, str]) -> None:
    said: list[str] = []
    chain = HookChain([Noted(name, said) for name in names])
    chain.after_step(3)
    first, second = names
    assert said == [f"{first} scales 3", f"{second} scales 3", f"{first} acts 3", f"{second} acts 3"]
    assert chain.seconds.keys() == set(names)
    chain.after_step(4, False)  # the optimizer left it out: there is nothing to scale
    assert said[4:] == [f"{first} acts 4", f"{second} acts 4"]
