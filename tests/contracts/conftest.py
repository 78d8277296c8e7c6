"""Tiny random models, written to disk in their library's own format so that the real load path is used; and option samples.

What is tested comes from the registry: a new component is covered by being there. ``samples/<kind>_<name>.yaml`` may list
more option sets to try: ``spec`` (the options), and where needed ``not_on`` (backbone -> why), ``fixed_start`` (initial values
do not depend on the seed).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.study.load import parse_yaml
from tests.contracts.tiny import CLASSES, KINDS, make

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(autouse=True)
def same_dropout_on_every_run() -> None:
    """GPT-2 trains with dropout, which draws from torch's default generator."""
    torch.manual_seed(20261121)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One option set of a component."""

    name: str
    options: Mapping[str, Any]
    not_on: Mapping[str, str]
    fixed_start: bool

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    def __str__(self) -> str:
        shown = "-".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.name}[{shown}]".replace(" ", "") if shown else self.name


def samples(kind: str) -> list[Sample]:
    """Every registered component of a kind, with its plain form or the option sets of its sample file."""
    found = []
    for name in registry.components(kind):
        path = SAMPLES / f"{kind}_{name}.yaml"
        for entry in copy.deepcopy(_listed(path)) if path.is_file() else [{"spec": {}}]:  # nobody changes another's
            found.append(Sample(name, entry["spec"], entry.get("not_on", {}), entry.get("fixed_start", False)))
    return found


@functools.cache
def _listed(path: Path) -> list[dict[str, Any]]:
    return parse_yaml(path.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Bench:
    """A tiny model on disk, and inputs for it."""

    kind: str
    folder: Path
    loaded: Backbone

    def backbone(self) -> Backbone:
        """A fresh copy of the loaded model (loading is tested on its own)."""
        return copy.deepcopy(self.loaded)

    def inputs(self, seed: int = 0, batch: int = 3) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        if self.kind == "gpt2":
            return {"input_ids": torch.randint(1, 64, (batch, 9), generator=random)}
        return {"pixel_values": torch.randn(batch, 3, 32, 32, generator=random)}

    def outputs(self, module: torch.nn.Module, seed: int = 0) -> torch.Tensor:
        """Logits in evaluation mode."""
        module.eval()
        with torch.no_grad():
            return self.loaded.outputs(module, self.inputs(seed))


@pytest.fixture(scope="session", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = make(request.param, tmp_path_factory.mktemp(request.param))
    head = "sequence-classification" if request.param == "gpt2" else "image-classification"
    return Bench(request.param, folder, source_of(str(folder)).load(str(folder), outputs=CLASSES, head=head, seed=0))


def update(adapted: Adapted, bench: Bench, steps: int = 2) -> None:
    """AdamW updates on random inputs; no weight decay, so that only gradients move a tensor."""
    adapted.module.train()
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        logits = adapted.backbone.outputs(adapted.module, bench.inputs(step))
        torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % CLASSES).backward()
        optimizer.step()
        optimizer.zero_grad()


def perturb(adapted: Adapted, seed: int = 1, size: float = 0.05) -> None:
    """Noise on every trainable tensor, so that nothing rests at its initial value."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
