"""The efficiency probe: FLOPs and times belong to the same number of examples, and the rate to the precision of the run."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import Stopped
from peftlab.probes import efficiency
from peftlab.probes.efficiency import Efficiency
from tests.probes.conftest import view, watch
from tests.training.conftest import Lab
from tests.training.test_loop import stop_after

RATE = 1e12


class Clock:
    """Seconds that pass where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(efficiency.time, "perf_counter", lambda: self.now)


def hook(lab: Lab, tmp_path: Path, **changes: Any) -> Any:
    trainer = lab.trainer(tmp_path, "lora")
    return Efficiency().hook(trainer.adapted, dataclasses.replace(view(trainer), **changes))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Types of the products whose rate was measured."""
    found: list[torch.dtype] = []
    monkeypatch.setattr(efficiency, "product_rate", lambda device, dtype: (found.append(dtype), RATE)[1])
    return found


@pytest.mark.parametrize("sizes", [(64, 8), (8, 64)], ids=["second-is-small", "second-is-large"])
def test_steps_of_other_sizes_are_no_reason_for_another_utilisation(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[torch.dtype], sizes: tuple[int, int]
) -> None:
    """72 examples, batches of 64: every other step has 8. At 2 ms and 0.5 GFLOP each all use a quarter of the rate."""
    clock, amount = Clock(monkeypatch), lambda step: sizes[step % 2]
    found = hook(lab, tmp_path, amount=amount)
    found.start(8, None)
    for step in range(8):
        found.before_step(step)
        if found.counter is not None:
            monkeypatch.setattr(found.counter, "get_total_flops", lambda step=step: int(0.5e9) * amount(step))
        found.after_backward(step)
        clock.now += 0.002 * amount(step)
        found.after_step(step)
    found.finish()
    content = found.report()["efficiency.json"]
    assert content["utilisation"] == pytest.approx(0.25)
    assert (content["step_amount"], content["step_gflop"]) == (sizes[1], 0.5 * sizes[1])


def test_the_rate_is_that_of_the_precision_of_the_run(lab: Lab, tmp_path: Path, asked: list[torch.dtype]) -> None:
    trainer = lab.trainer(tmp_path, "lora", precision="bfloat16", train={"max_steps": 4})
    found = watch(trainer, Efficiency())
    trainer.fit()
    content = found.report()["efficiency.json"]
    assert asked == [torch.bfloat16] and content["product_type"] == "bfloat16"
    assert content["step_amount"] == 16 and 0 < content["utilisation"] < 1


def test_energy_is_looked_at_while_steps_go_by(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []

    class Energy:
        joules = 3.5

        def look(self, *, at_once: bool = False) -> None:
            looks.append(at_once)

    monkeypatch.setattr(efficiency, "PackageEnergy", Energy)
    trainer = lab.trainer(tmp_path, "lora", train={"max_steps": 3})
    found = watch(trainer, Efficiency())
    trainer.fit()
    assert looks == [False, False, False, True] and found.report()["efficiency.json"]["energy_j"] == 3.5


def test_a_run_of_one_step_says_what_it_knows(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe", train={"max_steps": 1})
    found = watch(trainer, Efficiency())
    trainer.fit()
    content = found.report()["efficiency.json"]
    assert (content["step_gflop"], content["step_amount"], content["utilisation"]) == (None, None, None)


def test_a_run_that_is_continued_says_what_all_of_it_took(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[torch.dtype]
) -> None:
    """Also the operations of its second step, which the process that ends it never did."""

    class Energy:
        """A joule at every look."""

        joules = 0.0

        def look(self, *, at_once: bool = False) -> None:
            self.joules += 1.0

    monkeypatch.setattr(efficiency, "PackageEnergy", Energy)
    trainer = lab.trainer(tmp_path, "lora", train={"max_steps": 6}, should_stop=stop_after(4))
    watch(trainer, Efficiency())
    with pytest.raises(Stopped):
        trainer.fit()
    trainer = lab.trainer(tmp_path, "lora", train={"max_steps": 6})
    found = watch(trainer, Efficiency())
    trainer.fit()
    content = found.report()["efficiency.json"]
    assert content["step_gflop"] > 0 and content["step_amount"] == 16 and 0 < content["utilisation"] < 1
    assert content["energy_j"] >= 6 + 2, "a look at every step, at the checkpoint and at the end"
    assert sorted(found.times) == [0, 2, 3, 4, 5]


def test_a_long_run_keeps_few_times(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[torch.dtype]) -> None:
    """Evenly spread over the run, however long it is; every checkpoint holds them."""
    clock, found = Clock(monkeypatch), hook(lab, tmp_path, amount=lambda step: 16)
    found.start(5000, None)
    for step in range(5000):
        found.before_step(step)
        found.after_backward(step)
        clock.now += 0.001
        found.after_step(step)
    assert efficiency.TIMED <= len(found.times) <= 2 * efficiency.TIMED
    kept = sorted(found.times)
    assert {b - a for a, b in itertools.pairwise(kept)} == {found.stride} and kept[-1] > 4900
