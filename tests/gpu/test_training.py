"""Training on the accelerator: the same numbers as on a CPU to rounding, exact resume, every precision, exact merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import Stopped
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

pytestmark = pytest.mark.gpu
GROUPWISE = {"name": "groupwise", "type": "int4", "group_size": 8}
ARMS = {
    "full": {"adapter": "full"},
    "lora": {"adapter": {"name": "lora", "dropout": 0.1}},
    "dora": {"adapter": {"name": "lora", "dora": True, "targets": "all-linear"}},
    "adalora": {"adapter": {"name": "svd", "rank": 4}, "allocator": {"name": "adalora", "budget": {"ranks": 8}, "every": 1}},
    "qlora": {"adapter": "lora", "quantizer": {"name": "bnb", "bits": 4}},
    "qlora-8": {"adapter": "lora", "quantizer": {"name": "bnb", "bits": 8}},
    "qa-lora": {"adapter": {"name": "pooled", "rank": 3, "targets": "all-linear"}, "quantizer": GROUPWISE},
}


@pytest.mark.parametrize("arm", ARMS)
def test_resumed_equals_uninterrupted_bit_for_bit(
    lab: Lab, tmp_path: Path, device: torch.device, deterministic: None, arm: str
) -> None:
    options: dict[str, Any] = {**ARMS[arm], "device": device, "train": {"epochs": 3}}
    quiet = lab.trainer(tmp_path / "quiet", **options)
    quiet.fit()
    for stop in (4, 7):
        with pytest.raises(Stopped):
            lab.trainer(tmp_path / "cut", **options, should_stop=stop_after(stop)).fit()
    resumed = lab.trainer(tmp_path / "cut", **options)
    resumed.fit()
    assert same(weights(quiet), weights(resumed))
    assert quiet.evaluate("test").compute() == resumed.evaluate("test").compute()


@pytest.mark.parametrize("arm", ["full", "qa-lora"])
def test_a_device_trains_as_a_cpu_does(lab: Lab, tmp_path: Path, device: torch.device, arm: str) -> None:
    """Without dropout, whose draws differ between devices. In float32; TF32 is off unless asked for."""
    here, there = Lines(), Lines()
    lab.trainer(tmp_path / "cpu", **ARMS[arm], listener=here).fit()  # pyright: ignore[reportArgumentType]
    lab.trainer(tmp_path / "device", **ARMS[arm], listener=there, device=device).fit()  # pyright: ignore[reportArgumentType]
    assert there.losses[:3] == pytest.approx(here.losses[:3], rel=1e-4)
    assert there.losses == pytest.approx(here.losses, rel=0.05)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_as_float32_does(lab: Lab, tmp_path: Path, device: torch.device, precision: Any) -> None:
    if precision == "float16" and device.type == "cpu":
        pytest.skip("gradient scaling is for accelerators")
    options: dict[str, Any] = {"device": device, "train": {"epochs": 8, "learning_rate": 1e-2}}
    exact, rough = Lines(), Lines()
    lab.trainer(tmp_path / "a", "lora", listener=exact, **options).fit()
    trainer = lab.trainer(tmp_path / "b", "lora", listener=rough, precision=precision, **options)
    trainer.fit()
    assert {p.dtype for p in trainer.adapted.module.parameters()} == {torch.float32}
    assert sum(rough.losses[-6:]) < 0.95 * sum(rough.losses[:6])
    assert sum(rough.losses[-6:]) == pytest.approx(sum(exact.losses[-6:]), rel=0.1)


@pytest.mark.parametrize("kind", ["int4", "int8", "nf4", "fp4"])
def test_the_merge_of_qa_lora_is_exact_there(lab: Lab, tmp_path: Path, device: torch.device, kind: str) -> None:
    arm = {**ARMS["qa-lora"], "quantizer": {**GROUPWISE, "type": kind}}
    trainer = lab.trainer(tmp_path, **arm, device=device, train={"epochs": 4, "learning_rate": 3e-2})
    trainer.fit()
    before = trainer.evaluate("test").compute()
    trainer.adapted.module = trainer.adapted.adapter.merge(trainer.adapted)
    after = trainer.evaluate("test").compute()
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-4) and after["accuracy"] == before["accuracy"]
