"""Every probe, without naming one: it watches and changes nothing, neither while training goes on nor when it tells."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftlab.probes.contract import Probe, View
from peftlab.registry import components, create
from peftlab.training.loop import Trainer
from tests.contracts.conftest import Sample, samples
from tests.probes.conftest import add, view
from tests.training.conftest import Lab
from tests.training.test_loop import same, weights

PROBES = [cls for cls in components("probe").values() if issubclass(cls, Probe)]
ACTING = samples("probe")  #: with options of their sample files where a probe has to be asked for
#: with factors, without, and one that cannot be merged
ARMS: dict[str, Any] = {
    "lora": {"name": "lora", "rank": 4, "targets": "all-linear", "dropout": 0.1},
    "full": "full",
    "bottleneck": {"name": "bottleneck", "width": 8},
}


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str, cache: Path
) -> Callable[[str], tuple[dict[str, Any], Any]]:
    """Arm -> (weights, metrics) of its run that nobody watched."""
    known: dict[str, tuple[dict[str, Any], Any]] = {}

    def of(arm: str) -> tuple[dict[str, Any], Any]:
        if arm not in known:
            trainer = Lab(tiny_backbone, cache).trainer(tmp_path_factory.mktemp(arm), ARMS[arm])
            metrics = trainer.fit().selected.metrics
            known[arm] = (weights(trainer), metrics)
        return known[arm]

    return of


def watched(trainer: Trainer, lab: Lab, folder: Path, arm: str = "lora") -> View:
    """What the worker gives a probe."""
    return view(trainer, fresh=lambda: lab.trainer(folder / "fresh", ARMS[arm]).adapted)


def state(trainer: Trainer) -> tuple[Any, ...]:
    """What a probe has to leave as it is, apart from weights: random numbers, what trains, the mode of every module."""
    drawn = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    return drawn, tuple(trainer.adapted.trainable()), [module.training for module in trainer.adapted.module.modules()]


@pytest.mark.parametrize("sample", ACTING, ids=str)
@pytest.mark.parametrize("arm", ARMS)
def test_a_run_that_is_watched_has_the_same_bits(arm: str, sample: Sample, plain: Any, lab: Lab, tmp_path: Path) -> None:
    expected, metrics = plain(arm)
    trainer = lab.trainer(tmp_path, ARMS[arm])
    hook = create("probe", sample.spec).hook(trainer.adapted, watched(trainer, lab, tmp_path, arm))
    if hook is None:
        return
    add(trainer, hook)
    assert trainer.fit().selected.metrics == metrics
    assert same(weights(trainer), expected)
    before = state(trainer)
    told = hook.report()
    hook.arrays()
    assert state(trainer) == before
    assert same(weights(trainer), expected)
    assert all(name.endswith(".json") for name in told)
    json.dumps(told, allow_nan=False)


def test_no_two_write_the_same_file(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, ARMS["lora"])
    given = watched(trainer, lab, tmp_path)
    add(trainer, *(hook for sample in ACTING if (hook := create("probe", sample.spec).hook(trainer.adapted, given)) is not None))
    trainer.fit()
    files = [name for hook in trainer.hooks for name in hook.report()]
    assert len(files) == len(set(files)) >= len(PROBES) - 1


@pytest.mark.parametrize("cls", PROBES, ids=lambda c: c.name)
def test_it_says_what_it_is(cls: type[Probe]) -> None:
    assert cls().summary() and dataclasses.is_dataclass(cls)
