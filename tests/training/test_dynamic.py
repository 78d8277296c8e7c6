"""SoRA, DyLoRA and IncreLoRA in the real loop: exact resume, what is reported, export for plain PEFT."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftlab.errors import Stopped
from peftlab.training.loop import Trainer
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-2}  # 24 steps


@dataclasses.dataclass(frozen=True)
class Case:
    adapter: dict[str, Any]
    allocator: dict[str, Any]

    def __str__(self) -> str:
        return str(self.allocator["name"])


CASES = [
    Case(
        {"name": "svd", "rank": 4, "targets": "standard", "dropout": 0.1},
        {"name": "sora", "threshold": 1e-2, "max_threshold": 0.1, "levels": 3},
    ),
    Case({"name": "lora", "rank": 4, "targets": "standard", "dropout": 0.1}, {"name": "dylora", "evaluate_rank": 2}),
    Case({"name": "lora", "rank": 4, "targets": "standard"}, {"name": "dylora", "frozen": True, "distribution": "geometric"}),
    Case(
        {"name": "svd", "targets": "standard", "dropout": 0.1},
        {"name": "increlora", "budget": {"ranks": 10}, "top_h": 2, "initial_steps": 3, "every": 3, "warmup": 2},
    ),
]


def report(trainer: Trainer) -> dict[str, Any]:
    (hook,) = trainer.adapted.hooks
    return hook.report()["ranks.json"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(lab: Lab, tmp_path: Path, case: Case) -> None:
    quiet_lines, lines = Lines(), Lines()
    quiet = lab.trainer(tmp_path / "quiet", case.adapter, train=TRAIN, allocator=case.allocator, listener=quiet_lines)
    quiet.fit()
    for stop in (2, 5, 4, 10):  # after steps 2, 7, 11 and 21
        with pytest.raises(Stopped):
            lab.trainer(
                tmp_path / "cut",
                case.adapter,
                train=TRAIN,
                allocator=case.allocator,
                listener=lines,
                should_stop=stop_after(stop),
            ).fit()
    resumed = lab.trainer(tmp_path / "cut", case.adapter, train=TRAIN, allocator=case.allocator, listener=lines)
    assert resumed.fit().resumed == 4
    assert same(weights(quiet), weights(resumed))
    assert lines.lines == quiet_lines.lines
    assert report(quiet) == report(resumed)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_report_says_what_was_decided(lab: Lab, tmp_path: Path, case: Case) -> None:
    trainer = lab.trainer(tmp_path, case.adapter, train=TRAIN, allocator=case.allocator)
    sites = {site.name: site for site in trainer.adapted.sites}
    trainer.fit()
    content = report(trainer)
    assert content["allocator"]["name"] == case.allocator["name"]
    assert content["effective_scale"] == 2.0
    assert content["ranks"].keys() == content["ranks_at_start"].keys() == sites.keys()
    assert content["spent"]["ranks"] == sum(content["ranks"].values())
    assert content["spent"]["parameters"] == sum(r * (sites[n].d_in + sites[n].d_out) for n, r in content["ranks"].items())
    steps = [line["step"] for line in content["history"]]
    assert steps and steps == sorted(set(steps)) and steps[-1] <= 24
    assert all(line["ranks"].keys() == sites.keys() for line in content["history"])
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_exported_is_an_ordinary_lora_with_ranks_of_its_own(lab: Lab, tmp_path: Path, case: Case) -> None:
    trainer = lab.trainer(tmp_path / "run", case.adapter, train=TRAIN, allocator=case.allocator)
    trainer.fit()
    adapted = trainer.adapted
    adapted.adapter.save(adapted, tmp_path / "adapter")
    plain = lab.trainer(tmp_path / "plain", "full").adapted.module
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    found = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in loaded.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found == {name: (rank, 2.0) for name, rank in report(trainer)["ranks"].items() if rank}
    inputs = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    adapted.module.eval(), loaded.eval()
    with torch.no_grad():
        ours = adapted.backbone.outputs(adapted.module, inputs)
        theirs = adapted.backbone.outputs(loaded, inputs)
        merged = adapted.backbone.outputs(adapted.adapter.merge(adapted).eval(), inputs)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-5)


def test_the_best_weights_on_validation_are_cut_too(lab: Lab, tmp_path: Path) -> None:
    """DyLoRA shrinks at the end, after the best weights are back."""
    train = {**TRAIN, "select": "best"}
    case = CASES[1]
    trainer = lab.trainer(tmp_path, case.adapter, train=train, allocator=case.allocator)
    fitted = trainer.fit()
    assert trainer.evaluate("validation").compute() == pytest.approx(fitted.selected.metrics, rel=1e-5)
    assert set(report(trainer)["ranks"].values()) == {2}


def test_growth_is_the_same_with_recomputed_activations(lab: Lab, tmp_path: Path) -> None:
    """IncreLoRA looks into the forward pass, which then runs twice."""
    ranks = []
    for recompute in (False, True):
        train = {**TRAIN, "gradient_checkpointing": recompute}
        trainer = lab.trainer(tmp_path / str(recompute), CASES[3].adapter, train=train, allocator=CASES[3].allocator)
        trainer.fit()
        ranks.append([line["ranks"] for line in report(trainer)["history"]])
    assert ranks[0] == ranks[1] and len(ranks[0]) == 3
