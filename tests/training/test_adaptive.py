"""Ranks that move in the real loop: function kept, budget held, exact resume, memory follows, export for plain PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftlab.errors import DidNothing, OptionError, Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.training.loop import Trainer
from peftlab.training.optimizers import tensor_bytes
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

LORA = {"name": "lora", "rank": 4, "targets": "standard", "dropout": 0.1}
RULE = {"name": "proportional", "min_rank": 1, "max_rank": 8, "warmup_steps": 4, "every": 4, "last_step": 17, "hysteresis": 0.0}
TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-2}  # 24 steps


class Watch(TrainingHook):
    """Ranks and updates around every step. Two of them sit before and behind the allocator."""

    name = "watch"

    def __init__(self) -> None:
        self.ranks: list[dict[str, int]] = []
        self.updates: list[dict[str, torch.Tensor]] = []
        self.trainer: Trainer | None = None

    def after_step(self, step: int, updated: bool = True) -> None:
        assert self.trainer is not None
        adapted = self.trainer.adapted
        layers = adapted.adapter.low_rank(adapted)
        self.ranks.append({name: layer.rank for name, layer in layers.items()})
        self.updates.append({name: (layer.B @ layer.A).detach().clone() for name, layer in layers.items()})


def trained(lab: Lab, folder: Path, adapter: Any = LORA, **changes: Any) -> tuple[Trainer, Watch, Watch]:
    before, after = Watch(), Watch()
    trainer = lab.trainer(folder, adapter, train=TRAIN, allocator={**RULE, **changes})
    trainer.hooks[:] = [before, *trainer.hooks, after]  # pyright: ignore
    before.trainer = after.trainer = trainer
    trainer.fit()
    return trainer, before, after


def report(trainer: Trainer) -> dict[str, Any]:
    return next(hook for hook in trainer.adapted.hooks if hook.name == "allocator").report()["ranks.json"]


CASES = [
    {"name": "proportional", "importance": "magnitude"},
    {"name": "threshold", "importance": "gradient_norm", "quantile": 0.5},
    {"name": "top_k", "importance": "fisher"},
    {"name": "proportional", "importance": "spectral"},
    {"name": "proportional", "importance": "sensitivity"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['importance']}")
def test_ranks_move_within_the_budget_and_the_function_stays(lab: Lab, tmp_path: Path, case: dict[str, Any]) -> None:
    trainer, before, after = trained(lab, tmp_path, **case)
    content = report(trainer)
    total = 4 * len(content["ranks"])
    assert all(sum(ranks.values()) == total for ranks in after.ranks)  # at every step
    assert all(1 <= rank <= 8 for ranks in after.ranks for rank in ranks.values())
    changed = [t for t in range(24) if before.ranks[t] != after.ranks[t]]
    assert changed, "no rank moved"
    assert set(changed) <= {3, 7, 11, 15}
    for t in range(24):
        for name, old in before.updates[t].items():
            old_rank, new_rank = before.ranks[t][name], after.ranks[t][name]
            u, s, v = torch.linalg.svd(old)
            best = old if new_rank >= old_rank else u[:, :new_rank] * s[:new_rank] @ v[:new_rank]
            torch.testing.assert_close(after.updates[t][name], best, atol=1e-5, rtol=1e-4)
    by_step = {entry["step"]: entry for entry in content["history"]}
    assert list(by_step) == [0, 4, 8, 12, 16]
    for t in (3, 7, 11, 15):
        assert by_step[t + 1]["ranks"] == after.ranks[t]
        assert by_step[t + 1]["changed"] == (t in changed)
        assert by_step[t + 1]["importance"].keys() == after.ranks[t].keys()
    assert content["ranks"] == after.ranks[-1] and content["ranks_at_start"] == dict.fromkeys(content["ranks"], 4)
    json.dumps(content, allow_nan=False)


def test_parameters_optimizer_state_and_gradients_follow_the_ranks(lab: Lab, tmp_path: Path) -> None:
    trainer, _, after = trained(lab, tmp_path)
    sites = {site.name: site for site in trainer.adapted.sites}
    wanted = sum(rank * (sites[n].d_in + sites[n].d_out) for n, rank in after.ranks[-1].items())
    adapter = [p for n, p in trainer.trainable.items() if "lora_" in n]
    assert sum(p.numel() for p in adapter) == wanted
    moments = {f"{id(p)}/{k}": v for p in adapter for k, v in trainer.optimizer.state[p].items() if v.dim()}
    assert tensor_bytes(moments) == 2 * 4 * wanted


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['importance']}")
def test_interrupted_between_reallocations_and_resumed_equals_uninterrupted(
    lab: Lab, tmp_path: Path, case: dict[str, Any]
) -> None:
    rule = {**RULE, **case}
    quiet_lines, lines = Lines(), Lines()
    quiet = lab.trainer(tmp_path / "quiet", LORA, train=TRAIN, allocator=rule, listener=quiet_lines)
    quiet.fit()
    for stop in (2, 4, 7, 6):  # after steps 2, 6, 13, 19: before, between and after the reallocations
        with pytest.raises(Stopped):
            lab.trainer(tmp_path / "cut", LORA, train=TRAIN, allocator=rule, listener=lines, should_stop=stop_after(stop)).fit()
    resumed = lab.trainer(tmp_path / "cut", LORA, train=TRAIN, allocator=rule, listener=lines)
    assert resumed.fit().resumed == 4
    assert same(weights(quiet), weights(resumed))
    assert lines.lines == quiet_lines.lines
    assert report(quiet) == report(resumed)


def test_the_export_is_an_ordinary_lora_with_a_rank_for_each_module(lab: Lab, tmp_path: Path) -> None:
    trainer, _, after = trained(lab, tmp_path / "run")
    adapted, ranks = trainer.adapted, after.ranks[-1]
    assert len(set(ranks.values())) > 1
    adapted.adapter.save(adapted, tmp_path / "adapter")
    plain = lab.trainer(tmp_path / "plain", "full").adapted.module
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    found = {
        name.removeprefix("base_model.model."): module.lora_A["default"].weight.shape[0]  # pyright: ignore
        for name, module in loaded.named_modules()
        if hasattr(module, "lora_A")
    }
    parents: dict[str, int] = {}
    for site in adapted.sites:
        parents[site.parent or site.name] = parents.get(site.parent or site.name, 0) + ranks[site.name]
    assert found == parents
    batch = trainer.task.inputs(trainer.task.batch(trainer.splits.test[:8]))
    adapted.module.eval()
    with torch.inference_mode():
        mine = adapted.backbone.outputs(adapted.module, batch)
        torch.testing.assert_close(adapted.backbone.outputs(loaded, batch), mine, atol=1e-5, rtol=1e-4)
        merged = adapted.adapter.merge(adapted).eval()
        torch.testing.assert_close(adapted.backbone.outputs(merged, batch), mine, atol=1e-5, rtol=1e-4)


def test_the_scale_of_the_start_is_kept_with_rslora_too(lab: Lab, tmp_path: Path) -> None:
    trainer, _, after = trained(lab, tmp_path / "run", {**LORA, "rslora": True, "alpha": 8.0})
    layers = trainer.adapted.adapter.low_rank(trainer.adapted)
    assert {layer.scale for layer in layers.values()} == {4.0}  # 8 / sqrt(4)
    trainer.adapted.adapter.save(trainer.adapted, tmp_path / "adapter")
    config = peft.PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert isinstance(config, peft.LoraConfig)
    assert not config.use_rslora
    alphas = {config.lora_alpha / config.r, *(a / config.rank_pattern.get(n, config.r) for n, a in config.alpha_pattern.items())}
    assert alphas == {4.0}
    assert len(set(after.ranks[-1].values())) > 1


def test_hysteresis_keeps_the_ranks_and_says_so(lab: Lab, tmp_path: Path) -> None:
    trainer, _, after = trained(lab, tmp_path, hysteresis=0.37)  # 6 of 16, the most that can move
    content = report(trainer)
    assert all(ranks == content["ranks_at_start"] for ranks in after.ranks)
    assert {entry["why"] for entry in content["history"][1:]} <= {"hysteresis", "the rule keeps the ranks"}
    assert any(entry["moved"] for entry in content["history"][1:])


def test_an_adapter_whose_ranks_cannot_change_is_refused(lab: Lab, tmp_path: Path) -> None:
    for adapter in ({"name": "lora", "dora": True}, "svd"):
        with pytest.raises(OptionError, match="changes ranks during training"):
            lab.trainer(tmp_path, adapter, allocator=RULE)


def test_a_run_in_which_no_reallocation_was_due_did_nothing(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, LORA, train=TRAIN, allocator={**RULE, "warmup_steps": 23, "last_step": 3})
    with pytest.raises(DidNothing, match="no reallocation was due"):
        trainer.fit()
