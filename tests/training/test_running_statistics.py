"""Batch normalisation: its statistics are frozen where it is frozen, and a part of what is learnt where it trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import BaseChanged, RecordError, Stopped, TrainingError
from peftlab.nn.hooks import TrainingHook
from peftlab.training.compiled import Compiled
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.team import Team
from tests.contracts.tiny import make
from tests.training.conftest import Lab, Lines

STILL, MOVING = ["linear-probe", "bitfit"], ["ln-tuning", "full"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("resnet", tmp_path_factory.mktemp("resnet")))


@pytest.fixture
def norms(resnet: str, cache: Path) -> Lab:
    return Lab(resnet, cache)


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.adapted.module.state_dict().items()}


def changed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.parametrize("adapter", [*STILL, *MOVING])
def test_statistics_move_where_their_layer_trains(norms: Lab, tmp_path: Path, adapter: str) -> None:
    trainer = norms.trainer(tmp_path, adapter, train={"epochs": 1})
    before = state(trainer)
    trainer.fit()
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert changed(before, state(trainer)) & statistics == (statistics if adapter in MOVING else set())
    assert set(trainer.statistics) == (statistics if adapter in MOVING else set())


@pytest.mark.parametrize("adapter", [*STILL, *MOVING])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(norms: Lab, tmp_path: Path, adapter: str) -> None:
    train = {"select": "best", "batch_size": 8, "effective_batch_size": 16}
    asked, lines = iter(range(99)), [Lines(), Lines()]
    quiet = norms.trainer(tmp_path / "quiet", adapter, train=train, listener=lines[0])
    quiet.fit()
    with pytest.raises(Stopped):
        norms.trainer(tmp_path, adapter, train=train, listener=lines[1], should_stop=lambda: next(asked) == 7).fit()
    resumed = norms.trainer(tmp_path, adapter, train=train, listener=lines[1])
    assert resumed.fit().resumed == 1
    assert not changed(state(quiet), state(resumed)) and lines[0].lines == lines[1].lines


@pytest.mark.parametrize("adapter", [*STILL, *MOVING])
def test_saved_loaded_and_merged_it_gives_what_was_tested(norms: Lab, tmp_path: Path, adapter: str) -> None:
    trainer = norms.trainer(tmp_path, adapter)
    trainer.fit()
    tested = trainer.evaluate("test").compute()
    adapted = trainer.adapted
    adapted.adapter.save(adapted, tmp_path / "adapter")
    fresh = norms.trainer(tmp_path / "fresh", adapter, seed=1)
    loaded = adapted.adapter.load(norms.trainer(tmp_path / "plain", adapter).adapted.backbone, tmp_path / "adapter")
    for module in (loaded, adapted.adapter.merge(adapted)):
        fresh.adapted = dataclasses.replace(adapted, module=module)
        assert fresh.evaluate("test").compute() == tested


@pytest.mark.parametrize("adapter", ["linear-probe", "full"])
def test_what_scored_best_is_what_is_tested(norms: Lab, tmp_path: Path, adapter: str) -> None:
    trainer = norms.trainer(tmp_path, adapter, train={"select": "best"})
    trainer.selector.sign = 0  # all steps score alike: the first one stays the best
    fitted = trainer.fit()
    assert 0 < fitted.selected.step < fitted.steps
    assert trainer.evaluate("validation").compute() == fitted.selected.metrics


def test_a_statistic_of_a_frozen_layer_that_moves_is_an_error(norms: Lab, tmp_path: Path) -> None:
    class Noting(TrainingHook):
        def before_step(self, step: int) -> None:
            trainer.adapted.module.train()

    trainer: Any = norms.trainer(tmp_path, "linear-probe", hooks=(Noting(),))
    with pytest.raises(BaseChanged, match="changes a buffer"):
        trainer.fit()


def test_the_proof_counts_the_statistics_of_frozen_layers(norms: Lab, tmp_path: Path) -> None:
    for adapter in ("linear-probe", "ln-tuning"):
        trainer = norms.trainer(tmp_path / adapter, adapter, train={"epochs": 1})
        trainer.fit()
        frozen = [p for p in trainer.adapted.module.parameters() if not p.requires_grad]
        still = [] if adapter == "ln-tuning" else list(trainer.adapted.module.buffers())
        assert trainer.base_check["tensors"] == len(frozen) + len(still)


def test_gradient_checkpointing_moves_them_once(norms: Lab, tmp_path: Path) -> None:
    plain = norms.trainer(tmp_path / "a", "full", train={"epochs": 1})
    again = norms.trainer(tmp_path / "b", "full", train={"epochs": 1, "gradient_checkpointing": True})
    plain.fit(), again.fit()
    assert not changed(state(plain), state(again))


def test_a_checkpoint_without_them_is_refused(norms: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = norms.trainer(tmp_path, "full", train={"max_steps": 3}, cadence=Cadence(steps=2))
    monkeypatch.setattr(earlier, "learnt", earlier.trainable)  # as checkpoints of earlier versions had it
    earlier.fit()
    with pytest.raises(RecordError, match="other frozen weights or running statistics"):
        norms.trainer(tmp_path, "full").fit()


@pytest.mark.parametrize("adapter", ["linear-probe", "full"])
def test_several_processes_would_each_have_their_own(norms: Lab, tmp_path: Path, adapter: str) -> None:
    trainer = norms.trainer(tmp_path, adapter, train={"max_steps": 2})
    trainer.team = Team()
    trainer.team.size = 2
    if adapter == "full":
        with pytest.raises(TrainingError, match="whole batches") as caught:
            trainer.fit()
        assert "--processes 1" in caught.value.remedy
    else:
        trainer.fit()


def test_trying_whether_it_can_be_compiled_leaves_them(norms: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    trainer = norms.trainer(tmp_path, "full")
    before = state(trainer)
    compiled = Compiled(tmp_path, torch.device("cpu"), "float32")
    compiled.prepare(trainer.adapted, {"pixel_values": torch.rand(4, 3, 32, 32)})
    assert not compiled.why and not changed(before, state(trainer))
