"""Allocators that look before training, in the real loop: the probe is repeated at resume, and the run goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftlab.errors import RecordError, Stopped
from peftlab.training.loop import Trainer
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

LORA = {"name": "lora", "rank": 4, "targets": "all-linear", "dropout": 0.1}
TRAIN = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2}
PROBES: list[dict[str, Any]] = [
    {"name": "gora", "batches": 3, "budget": {"ranks": 44}},
    {"name": "eva", "batches": 2, "budget": {"ranks": 44}},
    {"name": "empirical", "batches": 3, "budget": {"ranks": 44}},
    {"name": "empirical", "batches": 4, "budget": {"ranks": 44}, "importance": "magnitude"},
]


def report(trainer: Trainer) -> dict[str, Any]:
    content = dict(trainer.chain.report()["ranks.json"])
    content.pop("probe", None)  # holds seconds
    return content


@pytest.mark.parametrize("allocator", PROBES, ids=lambda spec: "-".join((spec["name"], spec.get("importance", "base"))))
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(lab: Lab, tmp_path: Path, allocator: Any) -> None:
    quiet_lines, lines = Lines(), Lines()
    quiet = lab.trainer(tmp_path / "quiet", LORA, train=TRAIN, allocator=allocator, listener=quiet_lines)
    quiet.fit()
    for stop in (1, 5):
        with pytest.raises(Stopped):
            lab.trainer(
                tmp_path / "cut", LORA, train=TRAIN, allocator=allocator, listener=lines, should_stop=stop_after(stop)
            ).fit()
    resumed = lab.trainer(tmp_path / "cut", LORA, train=TRAIN, allocator=allocator, listener=lines)
    assert resumed.fit().resumed == 2
    assert same(weights(quiet), weights(resumed))
    assert lines.lines == quiet_lines.lines
    assert report(quiet) == report(resumed)
    assert len(set(report(quiet)["ranks"].values())) > 1


@pytest.mark.parametrize("allocator", PROBES, ids=lambda spec: "-".join((spec["name"], spec.get("importance", "base"))))
def test_trained_exported_and_loaded_by_plain_peft(lab: Lab, tmp_path: Path, allocator: Any) -> None:
    trainer = lab.trainer(tmp_path / "run", LORA, train=TRAIN, allocator=allocator)
    trainer.fit()
    adapted, ranks = trainer.adapted, report(trainer)["ranks"]
    assert sum(ranks.values()) == report(trainer)["spent"]["ranks"]
    adapted.adapter.save(adapted, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(lab.trainer(tmp_path / "plain", "full").adapted.module, str(tmp_path / "adapter"))
    found = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in loaded.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found == {name: (rank, 2.0) for name, rank in ranks.items() if rank}
    inputs = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    adapted.module.eval()
    loaded.eval()
    with torch.no_grad():
        ours = adapted.backbone.outputs(adapted.module, inputs)
        torch.testing.assert_close(adapted.backbone.outputs(loaded, inputs), ours, rtol=1e-4, atol=1e-5)


def test_a_probe_that_says_something_else_at_resume_is_an_error(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        lab.trainer(tmp_path, LORA, train=TRAIN, allocator=PROBES[0], should_stop=stop_after(2)).fit()
    other = {**PROBES[0], "batches": 1, "budget": {"ranks": 40}}
    with pytest.raises(RecordError, match="other ranks now"):
        lab.trainer(tmp_path, LORA, train=TRAIN, allocator=other).fit()
