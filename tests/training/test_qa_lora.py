"""QA-LoRA in the real loop: it learns, the codes hold still, the schedule acts, a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from peftlab.errors import OptionError, Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import stored_tensors
from peftlab.quantizers._schedule import packed_layers
from peftlab.training.loop import Trainer
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

ADAPTER = {"name": "pooled", "rank": 3, "targets": "all-linear"}
TRAIN = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-2}  # 36 steps
TYPES = ("int4", "int8", "nf4", "fp4")


def groupwise(kind: str = "int4", **options: Any) -> dict[str, Any]:
    return {"name": "groupwise", "type": kind, "group_size": 8, **options}


def packed(trainer: Trainer) -> list[PackedLinear]:
    return [m for m in trainer.adapted.module.modules() if isinstance(m, PackedLinear)]


def history(trainer: Trainer) -> dict[str, Any]:
    return trainer.adapted.hooks[-1].report()["quantization_history.json"]


def falls(lines: Lines) -> bool:
    return sum(lines.losses[-6:]) < 0.97 * sum(lines.losses[:6])


class Watch(TrainingHook):
    """rho, and the bytes of float weights held, as each step's forward pass sees them."""

    name = "watch"

    def __init__(self) -> None:
        self.rho: list[float] = []
        self.held: list[int] = []
        self.trainer: Trainer | None = None

    def after_backward(self, step: int) -> None:
        assert self.trainer is not None
        layers = packed(self.trainer)
        (rho,) = {layer.share for layer in layers}
        self.rho.append(rho)
        self.held.append(sum(layer.full.nbytes for layer in layers if layer.full is not None))


@pytest.mark.parametrize("kind", TYPES)
def test_it_learns_and_no_code_changes(lab: Lab, tmp_path: Path, kind: str) -> None:
    lines = Lines()
    trainer = lab.trainer(tmp_path, ADAPTER, train=TRAIN, quantizer=groupwise(kind), listener=lines)
    before = {name: tensor.clone() for name, tensor in stored_tensors(trainer.adapted.module)}
    trainer.fit()
    assert falls(lines)
    after = dict(stored_tensors(trainer.adapted.module))
    assert before and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    score = trainer.evaluate("test").compute()
    trainer.adapted.module = trainer.adapted.adapter.merge(trainer.adapted)
    assert any(isinstance(m, PackedLinear) for m in trainer.adapted.module.modules())
    merged = trainer.evaluate("test").compute()
    assert merged["loss"] == pytest.approx(score["loss"], rel=1e-4)
    assert merged["accuracy"] == score["accuracy"]


@pytest.mark.parametrize("adapter", ["lora", "svd", "linear-probe"], ids=str)
def test_other_adapters_train_on_packed_weights(lab: Lab, tmp_path: Path, adapter: Any) -> None:
    lines = Lines()
    train = {**TRAIN, "learning_rate": 1e-2}
    trainer = lab.trainer(tmp_path, adapter, train=train, quantizer=groupwise("nf4"), listener=lines)
    assert len(packed(trainer)) == 12
    trainer.fit()
    assert falls(lines)
    assert history(trainer)["layers"].keys() == {
        s.name for s in trainer.adapted.backbone.roles.sites if not s.parent and s.block is not None
    }


def test_the_schedule_acts_in_training_and_releases_the_float_weights(lab: Lab, tmp_path: Path) -> None:
    watch, quantizer = Watch(), groupwise(schedule="linear", start=0.2, end=0.6)
    watch.trainer = lab.trainer(tmp_path, ADAPTER, train=TRAIN, quantizer=quantizer, hooks=(watch,))
    watch.trainer.fit()
    wanted = [min(1.0, max(0.0, (t - 7) / 14)) for t in range(36)]  # of 35: from step 7 to step 21
    assert watch.rho == pytest.approx(wanted)
    whole = 4 * sum(layer.in_features * layer.out_features for layer in packed(watch.trainer))
    assert watch.held == [whole if rho < 1 else 0 for rho in wanted]
    content = history(watch.trainer)
    assert content["float_weights"]["resident_until_step"] == 21
    assert content["float_weights"]["bytes"] == whole
    assert "no memory was saved" in content["float_weights"]["note"]
    assert [line["rho"] for line in content["history"]] == watch.rho


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_without_a_step_the_schedule_is_at_its_end(lab: Lab, tmp_path: Path, schedule: str) -> None:
    trainer = lab.trainer(tmp_path, ADAPTER, train={"max_steps": 0}, quantizer=groupwise(schedule=schedule))
    plain = lab.trainer(tmp_path / "plain", "linear-probe", train={"max_steps": 0}, quantizer=groupwise())
    assert trainer.fit().steps == 0
    assert {(layer.share, layer.full) for layer in packed(trainer)} == {(1.0, None)}
    assert history(trainer)["float_weights"]["resident_until_step"] == 0
    assert history(trainer)["history"] == []
    assert trainer.evaluate("test").compute() == plain.evaluate("test").compute()  # quantization alone


def test_evaluation_is_at_rho_one_from_the_start(lab: Lab, tmp_path: Path) -> None:
    one = lab.trainer(tmp_path / "a", ADAPTER, train=TRAIN, quantizer=groupwise(schedule="cosine"))
    two = lab.trainer(tmp_path / "b", ADAPTER, train=TRAIN, quantizer=groupwise())
    for hook in one.adapted.hooks:
        hook.start(36, one.optimizer)
        hook.before_step(0)
    assert {layer.share for layer in packed(one)} == {0.0}
    assert one.evaluate("validation").compute() == two.evaluate("validation").compute()


def test_interrupted_in_every_phase_and_resumed_equals_uninterrupted_bit_for_bit(lab: Lab, tmp_path: Path) -> None:
    options: dict[str, Any] = {"train": TRAIN, "quantizer": groupwise("nf4", schedule="cosine", start=0.1, scale_updates=True)}
    quiet = lab.trainer(tmp_path / "quiet", ADAPTER, **options)
    quiet.fit()
    for stop in (2, 8, 12):  # after steps 2 (rho = 0), 10 (rising), 22 (rho = 1)
        with pytest.raises(Stopped):
            lab.trainer(tmp_path / "cut", ADAPTER, should_stop=stop_after(stop), **options).fit()
    resumed = lab.trainer(tmp_path / "cut", ADAPTER, **options)
    resumed.fit()
    assert same(weights(quiet), weights(resumed))
    assert history(quiet) == history(resumed)


def test_scaled_updates_are_a_learning_rate_per_layer(lab: Lab, tmp_path: Path) -> None:
    """After one step, each layer has moved by 1/(1 + e) of what it would have, and the head by all of it."""
    moved = {}
    for scaled in (False, True):
        quantizer = groupwise("fp4", scale_updates=scaled)
        trainer = lab.trainer(
            tmp_path / str(scaled), ADAPTER, train={**TRAIN, "max_steps": 1, "warmup": 0.0}, quantizer=quantizer
        )
        start = weights(trainer)
        trainer.fit()
        moved[scaled] = {name: now - start[name] for name, now in weights(trainer).items()}
    layers = history(trainer)["layers"]
    for name, change in moved[True].items():
        owner = next((layer for layer in layers if name.startswith(layer + ".")), None)
        factor = 1 / (1 + layers[owner]["relative_error"]) if owner else 1.0
        assert (factor < 0.95) == (owner is not None)
        assert torch.allclose(change, factor * moved[False][name], rtol=1e-3, atol=1e-7)


def test_the_record_has_balance_and_bounds(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, ADAPTER, train=TRAIN, quantizer=groupwise())
    trainer.fit()
    content = json.loads(json.dumps(history(trainer), allow_nan=False))
    norms = trainer.adapted.adapter.update_norms(trainer.adapted)
    last = content["history"][-1]
    assert last["step"] == 35 and last["balance"].keys() == norms.keys() == content["layers"].keys()
    for name, layer in content["layers"].items():
        assert last["balance"][name] == pytest.approx(norms[name] / layer["error_norm"], rel=1e-5)
        assert layer["scheme"] == "int4-g8" and layer["stored_bytes"] > 0
        assert 0 < layer["cancellable"]["pooled"] <= layer["cancellable"]["unrestricted"] < 1
        assert layer["cancellable"]["rank"] == 3
    assert sum(content["history"][0]["balance"].values()) < sum(last["balance"].values())


@pytest.mark.parametrize(("kind", "codes"), [("int4", 16), ("nf4", 16), ("int8", 256)])
def test_the_record_says_how_codes_are_used(lab: Lab, tmp_path: Path, kind: str, codes: int) -> None:
    """Entropies against scipy's, at every change of phase; codes are frozen, so that no entropy moves."""
    schedule = {"schedule": "linear", "start": 0.2, "end": 0.5}
    trainer = lab.trainer(tmp_path, ADAPTER, quantizer=groupwise(kind, **schedule))
    trainer.fit()
    content = json.loads(json.dumps(history(trainer), allow_nan=False))
    assert [line["rho"] for line in content["codes"]] == [0.0, pytest.approx(0.21, abs=0.21), 1.0, 1.0]
    assert [content["codes"][i]["step"] for i in (0, 3)] == [0, 11]
    for name, layer in packed_layers(trainer.adapted.module).items():
        counts = np.bincount(layer.codes().numpy().ravel(), minlength=codes)
        assert content["layers"][name]["code_counts"] == counts.tolist()
        for line in content["codes"]:
            assert line["entropy_bits"][name] == pytest.approx(scipy.stats.entropy(counts, base=2))
            assert line["used"][name] == (counts > 0).mean()


def test_adalora_on_qa_lora(lab: Lab, tmp_path: Path) -> None:
    adalora = {"name": "adalora", "budget": {"ranks": 6}, "initial_rank": 3, "initial_steps": 3, "final_steps": 6, "every": 2}
    adapter = {"name": "pooled", "form": "svd", "rank": 2}
    lines = Lines()
    trainer = lab.trainer(tmp_path, adapter, train=TRAIN, allocator=adalora, quantizer=groupwise("nf4"), listener=lines)
    trainer.fit()
    content = trainer.adapted.hooks[0].report()["ranks.json"]
    assert sum(content["ranks"].values()) == 6
    assert content["spent"]["parameters"] == 6 * (4 + 32)
    assert falls(lines)
    score = trainer.evaluate("test").compute()
    trainer.adapted.module = trainer.adapted.adapter.merge(trainer.adapted)
    assert trainer.evaluate("test").compute()["loss"] == pytest.approx(score["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("adapter", "quantizer", "match"),
    [
        ({"name": "pooled", "group_size": 16}, groupwise(), "do not merge into groups of 8"),
        ({"name": "pooled"}, "none", "has no groups"),
        ({"name": "pooled", "rank": 9}, groupwise(), "above min"),
    ],
)
def test_what_does_not_go_together_is_refused(lab: Lab, tmp_path: Path, adapter: Any, quantizer: Any, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        lab.trainer(tmp_path, adapter, quantizer=quantizer)


def test_adalora_needs_the_triplet_form(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="acts on triplets"):
        lab.trainer(tmp_path, ADAPTER, allocator="adalora", quantizer=groupwise())
