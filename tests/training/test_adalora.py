"""AdaLoRA in the real loop: exact resume, the budget holds at every mask, penalty in training only, export for plain PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftlab.errors import OptionError, Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.triplets import TripletLinear
from peftlab.training.loop import Trainer
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

SVD = {"name": "svd", "targets": "standard", "dropout": 0.1}
ADALORA = {"name": "adalora", "budget": {"ranks": 6}, "initial_rank": 4, "initial_steps": 3, "final_steps": 6, "every": 2}
TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-2}  # 24 steps


class Watch(TrainingHook):
    """How many triplets are switched on after each step. Runs behind the allocator."""

    name = "watch"

    def __init__(self) -> None:
        self.alive: list[int] = []
        self.trainer: Trainer | None = None

    def after_step(self, step: int, updated: bool = True) -> None:
        assert self.trainer is not None
        self.alive.append(sum(len(layer.surviving()) for layer in layers(self.trainer)))


def layers(trainer: Trainer) -> list[TripletLinear]:
    return [m for m in trainer.adapted.module.modules() if isinstance(m, TripletLinear)]


def trained(lab: Lab, folder: Path, **changes: Any) -> tuple[Trainer, Watch]:
    watch = Watch()
    watch.trainer = lab.trainer(folder, SVD, train=TRAIN, allocator={**ADALORA, **changes}, hooks=(watch,))
    watch.trainer.fit()
    return watch.trainer, watch


def report(trainer: Trainer) -> dict[str, Any]:
    (hook,) = trainer.adapted.hooks
    return hook.report()["ranks.json"]


def test_interrupted_in_every_phase_and_resumed_equals_uninterrupted_bit_for_bit(lab: Lab, tmp_path: Path) -> None:
    quiet_lines, lines = Lines(), Lines()
    quiet = lab.trainer(tmp_path / "quiet", SVD, train=TRAIN, allocator=ADALORA, listener=quiet_lines)
    quiet.fit()
    for stop in (2, 5, 4, 10):  # after steps 2 (before the first mask), 7 and 11 (budget falling), 21 (mask held)
        with pytest.raises(Stopped):
            again = lab.trainer(
                tmp_path / "cut", SVD, train=TRAIN, allocator=ADALORA, listener=lines, should_stop=stop_after(stop)
            )
            again.fit()
    resumed = lab.trainer(tmp_path / "cut", SVD, train=TRAIN, allocator=ADALORA, listener=lines)
    fitted = resumed.fit()
    assert fitted.resumed == 4
    assert same(weights(quiet), weights(resumed))
    assert lines.lines == quiet_lines.lines
    assert report(quiet) == report(resumed)
    assert len(report(quiet)["history"]) > 5


def test_the_budget_is_never_exceeded_where_it_masks_and_the_end_is_the_target(lab: Lab, tmp_path: Path) -> None:
    trainer, watch = trained(lab, tmp_path)
    content = report(trainer)
    budgets = content["budget_by_step"]
    assert len(watch.alive) == len(budgets) == 24
    masked = [t for t in range(24) if (3 < t <= 18 and t % 2 == 0) or t > 18]
    assert all(watch.alive[t] == budgets[t] for t in masked)  # no ties among these scores
    assert budgets[:4] == [16] * 4 and budgets[18:] == [6] * 6
    assert [line["step"] for line in content["history"]] == [*range(4, 19, 2), 19]
    assert all(sum(line["ranks"].values()) == line["budget"] for line in content["history"])
    assert sum(content["ranks"].values()) == content["spent"]["ranks"] == 6
    assert content["spent"]["parameters"] == 6 * 64
    json.dumps(content, allow_nan=False)


def test_the_effective_scale_is_loras_and_in_the_record(lab: Lab, tmp_path: Path) -> None:
    content = report(trained(lab, tmp_path)[0])
    assert content["effective_scale"] == 2.0
    assert content["alpha"] == 2.0 * content["initial_rank"] == 8.0


def test_the_penalty_trains_and_never_evaluates(lab: Lab, tmp_path: Path) -> None:
    lines, plain = Lines(), Lines()
    one = lab.trainer(tmp_path / "a", SVD, train=TRAIN, allocator={**ADALORA, "orthogonality": 0.5}, listener=lines)
    two = lab.trainer(tmp_path / "b", SVD, train=TRAIN, allocator={**ADALORA, "orthogonality": 0.0}, listener=plain)
    assert one.evaluate("validation").compute() == two.evaluate("validation").compute()
    (hook,) = one.adapted.hooks
    hook.start(one.schedule.total, one.optimizer)
    found = hook.penalty()
    assert found is not None
    norms = [torch.linalg.norm(g.detach() - torch.eye(4)) for m in layers(one) for g in (m.P.T @ m.P, m.Q @ m.Q.T)]
    expected = 0.5 * float(sum(float(n) for n in norms)) / len(norms)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    one.fit(), two.fit()
    assert lines.losses[0] - plain.losses[0] == pytest.approx(expected, rel=1e-4)
    distance = [sum(float(torch.linalg.norm((m.P.T @ m.P).detach() - torch.eye(4))) for m in layers(t)) for t in (one, two)]
    assert distance[0] < distance[1]


def test_what_is_exported_is_an_ordinary_lora_with_the_ranks_that_are_left(lab: Lab, tmp_path: Path) -> None:
    trainer, _ = trained(lab, tmp_path / "run", budget={"ranks": 3})
    adapted, ranks = trainer.adapted, report(trainer)["ranks"]
    assert sum(ranks.values()) == 3 and 0 in ranks.values()  # four modules: one at least is left without
    adapted.adapter.save(adapted, tmp_path / "adapter")
    plain = lab.trainer(tmp_path / "plain", "full").adapted.module
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    found = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in loaded.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found == {name: (rank, 2.0) for name, rank in ranks.items() if rank}
    inputs = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    adapted.module.eval(), loaded.eval()
    with torch.no_grad():
        ours = adapted.backbone.outputs(adapted.module, inputs)
        theirs = adapted.backbone.outputs(loaded, inputs)
        merged = adapted.backbone.outputs(adapted.adapter.merge(adapted).eval(), inputs)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_steps": 12, "final_steps": 12}, "longer than its first and last phase"),
        ({"every": 19}, "no mask is due"),
        ({"final_steps": 1}, "2 or more are needed"),
    ],
)
def test_schedules_that_do_not_fit_the_run_stop_it_before_the_first_step(
    lab: Lab, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        lab.trainer(tmp_path, SVD, train=TRAIN, allocator={**ADALORA, **changes}).fit()


def test_adalora_needs_an_adapter_with_triplets(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'lora' has none"):
        lab.trainer(tmp_path, "lora", allocator=ADALORA)
