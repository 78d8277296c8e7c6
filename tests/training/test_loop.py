"""The loop: exact resume, gradient accumulation, proofs of movement and of frozenness, early stopping, divergence."""

from __future__ import annotations

import errno
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab.errors import BaseChanged, DidNothing, RecordError, Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.optimizers import clip
from peftlab.training.selection import Selector
from tests.training.conftest import Lab, Lines

ADAPTERS = [
    "full",
    "linear-probe",
    "bitfit",
    {"name": "lora", "dropout": 0.1},
    {"name": "lora", "dora": True, "targets": "all-linear"},
    {"name": "lora", "init": "pissa"},
]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.trainable.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def stop_after(steps: int) -> Any:
    """A should_stop that becomes true at its ``steps``-th question, which is asked once a step."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_interrupted_at_any_step_and_resumed_equals_uninterrupted_bit_for_bit(lab: Lab, tmp_path: Path, adapter: Any) -> None:
    train = {"batch_size": 8, "effective_batch_size": 16, "select": "best", "early_stopping": {"patience": 9}}
    quiet_lines = Lines()
    quiet = lab.trainer(tmp_path / "quiet", adapter, listener=quiet_lines, train=train)
    fitted = quiet.fit()
    assert fitted.steps == 12  # 2 epochs of ceil(90 / 16)
    lines = Lines()
    for stop in (1, 5, 5):  # stopped after steps 1, 6 and 11: in the first proof, within an epoch, near the end
        with pytest.raises(Stopped):
            lab.trainer(tmp_path / "cut", adapter, listener=lines, train=train, should_stop=stop_after(stop)).fit()
    resumed = lab.trainer(tmp_path / "cut", adapter, listener=lines, train=train)
    again = resumed.fit()
    assert same(weights(quiet), weights(resumed))
    assert again.selected.metrics == fitted.selected.metrics
    assert again.selected == fitted.selected
    assert again.resumed == 3
    assert lines.lines == quiet_lines.lines
    assert quiet.evaluate("test").compute() == resumed.evaluate("test").compute()


def test_checkpoints_do_not_change_the_result(lab: Lab, tmp_path: Path) -> None:
    rare = lab.trainer(tmp_path / "a", "lora")
    often = lab.trainer(tmp_path / "b", "lora", cadence=Cadence(steps=1))
    rare.fit(), often.fit()
    assert same(weights(rare), weights(often))
    assert len(list((tmp_path / "b").glob("step-*"))) == 2  # older ones are removed


def test_progress_after_a_restart_is_kept_though_damaged_checkpoints_have_higher_steps(lab: Lab, tmp_path: Path) -> None:
    train = {"batch_size": 8, "effective_batch_size": 16}
    quiet, settings = lab.trainer(tmp_path / "quiet", train=train), {"train": train, "listener": Lines()}
    quiet.fit()
    for stop, after in ((9, 9), (5, 5), (3, 8)):
        with pytest.raises(Stopped, match=f"after step {after} of 12"):
            lab.trainer(tmp_path / "cut", cadence=Cadence(steps=1), should_stop=stop_after(stop), **settings).fit()
        for found in (tmp_path / "cut").glob("step-*") if stop == 9 else ():
            (found / "tensors.safetensors").write_bytes(b"x")
    resumed = lab.trainer(tmp_path / "cut", **settings)
    notes = resumed.fit().notes
    assert len([note for note in notes if "restarted from step 0" in note]) == 1 and len(notes) == 3, notes
    assert same(weights(quiet), weights(resumed))


def test_a_checkpoint_that_cannot_be_deleted_ends_no_run(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    for stop in (3, 3):
        with pytest.raises(Stopped):
            lab.trainer(tmp_path, cadence=Cadence(steps=1), should_stop=stop_after(stop)).fit()
    fitted = lab.trainer(tmp_path, cadence=Cadence(steps=1)).fit()
    told = [note for note in fitted.notes if "could not be deleted" in note]
    assert fitted.steps == 12 and len(told) == 1 and "step-00000001: Directory not empty" in told[0]


def test_whoever_keeps_the_lines_is_told_before_a_checkpoint_relies_on_them(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, order = Lines(), []
    save, on_save = Checkpoints.save, Lines.on_save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: order.append(("save", step)) or save(self, step, state))
    monkeypatch.setattr(Lines, "on_save", lambda self, step: order.append(("told", step)) or on_save(self, step))
    lab.trainer(tmp_path, listener=lines, cadence=Cadence(steps=3)).fit()
    assert order == [(what, step) for step in (3, 6, 9, 12) for what in ("told", "save")]
    assert lines.saved == [(3, 3), (6, 7), (9, 10), (12, 14)], "with the validations of steps 6 and 12"


def test_lines_that_are_lost_before_a_checkpoint_are_a_note_and_only_one(lab: Lab, tmp_path: Path) -> None:
    """As a power cut may lose them on a disk that does not keep what was flushed."""
    lines = Lines()
    for stop, lost in ((8, 3), (2, 0)):
        with pytest.raises(Stopped):
            lab.trainer(tmp_path, listener=lines, should_stop=stop_after(stop)).fit()
        del lines.lines[len(lines.lines) - lost :]
    fitted = lab.trainer(tmp_path, listener=lines).fit()
    assert [(line["step"], line["split"]) for line in lines.lines[5:8]] == [(6, "train"), (9, "train"), (10, "train")]
    assert fitted.notes == ["lines of metrics.jsonl are lost, from step 6 to 8: curves have a gap"]


def test_a_checkpoint_of_another_base_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        lab.trainer(tmp_path, "lora", should_stop=stop_after(3)).fit()
    other = lab.trainer(tmp_path, "lora")
    frozen = next(p for p in other.adapted.module.parameters() if not p.requires_grad)
    frozen.data.add_(1e-3)
    with pytest.raises(RecordError, match="other frozen weights"):
        other.fit()


def test_accumulated_gradient_equals_that_of_the_whole_batch(lab: Lab, tmp_path: Path) -> None:
    """90 examples in batches of 32 leave a last batch of 26: micro-batches of unequal size must be weighted by their size."""
    train = {"epochs": 1, "clip_norm": None}
    whole = lab.trainer(tmp_path / "a", "full", train={**train, "batch_size": 32})
    parts = lab.trainer(tmp_path / "b", "full", train={**train, "batch_size": 8, "effective_batch_size": 32})
    first, second = whole.fit(), parts.fit()
    assert first.steps == second.steps == 3
    largest = max((a - b).abs().max().item() for a, b in zip(weights(whole).values(), weights(parts).values(), strict=True))
    assert largest < 5e-4  # Adam's first steps amplify rounding: sign(g) for gradients near zero; a wrong weighting gives > 1e-2
    assert first.selected.metrics["loss"] == pytest.approx(second.selected.metrics["loss"], rel=1e-3)


def test_gradient_checkpointing_changes_memory_not_results(lab: Lab, tmp_path: Path) -> None:
    plain = lab.trainer(tmp_path / "a", {"name": "lora", "dropout": 0.1})
    recomputed = lab.trainer(tmp_path / "b", {"name": "lora", "dropout": 0.1}, train={"gradient_checkpointing": True})
    plain.fit(), recomputed.fit()
    assert same(weights(plain), weights(recomputed))


class _Detach(TrainingHook):
    """Cuts one trainable tensor off: its gradient is thrown away, as if the loss did not depend on it."""

    def __init__(self, name: str) -> None:
        self.wanted = name
        self.parameter: nn.Parameter | None = None

    def after_backward(self, step: int) -> None:
        assert self.parameter is not None
        self.parameter.grad = torch.zeros_like(self.parameter)


def test_an_adapter_tensor_that_never_gets_a_gradient_is_an_error(lab: Lab, tmp_path: Path) -> None:
    """Weight decay alone moves the tensor, which is not training."""
    hook = _Detach("lora_A")
    trainer = lab.trainer(tmp_path, "lora", hooks=(hook,), train={"weight_decay": 0.1})
    name = next(n for n in trainer.trainable if "lora_A" in n)
    hook.parameter = trainer.trainable[name]
    with pytest.raises(DidNothing) as raised:
        trainer.fit()
    assert name in raised.value.where


class _Meddler(TrainingHook):
    def __init__(self) -> None:
        self.victim: nn.Parameter | None = None

    def after_step(self, step: int, updated: bool = True) -> None:
        if step == 4:
            assert self.victim is not None
            self.victim.data[0] += 1e-6


def test_a_frozen_weight_that_changes_is_an_error(lab: Lab, tmp_path: Path) -> None:
    hook = _Meddler()
    trainer = lab.trainer(tmp_path, "lora", hooks=(hook,))
    hook.victim = next(p for p in trainer.adapted.module.parameters() if not p.requires_grad and p.abs().max() < 1)
    with pytest.raises(BaseChanged):
        trainer.fit()


class _Poison(TrainingHook):
    """A penalty that is not a number in one step."""

    def __init__(self, at: int) -> None:
        self.at, self.step = at, -1

    def before_step(self, step: int) -> None:
        self.step = step

    def penalty(self) -> torch.Tensor | None:
        return torch.tensor(float("nan")) if self.step == self.at else None


def test_divergence_is_an_outcome_and_the_same_on_every_try(lab: Lab, tmp_path: Path) -> None:
    first = lab.trainer(tmp_path / "a", "lora", hooks=(_Poison(5),))
    second = lab.trainer(tmp_path / "b", "lora", hooks=(_Poison(5),))
    one, two = first.fit(), second.fit()
    assert one.diverged_at == two.diverged_at == 5
    assert one.steps == 5  # the broken step is not taken: weights stay finite
    assert same(weights(first), weights(second))
    assert all(torch.isfinite(p).all() for p in first.trainable.values())


def test_penalty_is_part_of_training_and_never_of_evaluation(lab: Lab, tmp_path: Path) -> None:
    class Constant(TrainingHook):
        def penalty(self) -> torch.Tensor | None:
            return torch.tensor(100.0)

    lines, plain = Lines(), Lines()
    one = lab.trainer(tmp_path / "a", "lora", listener=lines, hooks=(Constant(),))
    two = lab.trainer(tmp_path / "b", "lora", listener=plain)
    assert one.fit().selected == two.fit().selected
    assert lines.losses[0] == pytest.approx(plain.losses[0] + 100, rel=1e-5)


def test_best_weights_are_those_of_the_best_evaluation(lab: Lab, tmp_path: Path) -> None:
    lines = Lines()
    train = {"epochs": 4, "select": "best", "learning_rate": 0.05, "schedule": "constant"}
    trainer = lab.trainer(tmp_path, "lora", listener=lines, train=train)
    fitted = trainer.fit()
    seen = [line for line in lines.lines if line["split"] == "validation"]
    best = max(seen, key=lambda line: line["accuracy"])
    assert fitted.selected.step == best["step"]
    assert trainer.evaluate("validation").compute()["accuracy"] == best["accuracy"]


def test_early_stopping_ends_after_patience_evaluations_without_gain(lab: Lab, tmp_path: Path) -> None:
    train = {"epochs": 30, "select": "best", "early_stopping": {"patience": 2, "min_delta": 2.0}}  # a gain of 2.0 is impossible
    lines = Lines()
    fitted = lab.trainer(tmp_path, "lora", train=train, listener=lines).fit()
    assert fitted.steps == 3 * 6  # one evaluation sets the mark, two bring no gain
    seen = {line["step"]: line["accuracy"] for line in lines.lines if line["split"] == "validation"}
    assert max(seen.values()) > seen[6], "there was a gain all the same"
    assert fitted.selected.metrics["accuracy"] == max(seen.values())


def test_a_selection_begun_by_an_earlier_version_is_a_note(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"epochs": 4, "select": "best", "early_stopping": {"patience": 9, "min_delta": 2.0}}
    settings = {"train": train, "listener": Lines()}
    with monkeypatch.context() as earlier, pytest.raises(Stopped):
        state = Selector.state
        earlier.setattr(Selector, "state", lambda self: {k: v for k, v in state(self).items() if k != "mark"})
        lab.trainer(tmp_path, should_stop=stop_after(13), **settings).fit()
    with pytest.raises(Stopped):
        lab.trainer(tmp_path, should_stop=stop_after(3), **settings).fit()
    notes = lab.trainer(tmp_path, **settings).fit().notes
    assert len(notes) == 1 and "up to step 12 gains of min_delta or less" in notes[0]


def test_same_seed_same_run_and_other_seed_other_run(lab: Lab, tmp_path: Path) -> None:
    one, two, three = (lab.trainer(tmp_path / str(i), {"name": "lora", "dropout": 0.1}, seed=s) for i, s in enumerate((3, 3, 4)))
    for trainer in (one, two, three):
        torch.manual_seed(torch.seed() % 2**31)  # whatever the default generator holds must not matter
        trainer.fit()
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(three))


def test_clip_scales_to_the_limit_and_reports_the_norm_before() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    parameters[0].grad, parameters[1].grad = torch.full((3,), 3.0), torch.full((4,), -2.0)
    norm = clip(parameters, 1.0)
    assert norm == pytest.approx((27 + 16) ** 0.5)
    after = torch.cat([p.grad for p in parameters]).norm()  # pyright: ignore
    assert float(after) == pytest.approx(1.0, rel=1e-4)
    assert clip(parameters, None) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("epochs", "steps", "at"), [(0, 0, 0), (2, 6, 5)])
def test_outputs_that_overflow_in_validation_only_are_divergence(
    lab: Lab, tmp_path: Path, epochs: int, steps: int, at: int
) -> None:
    """As of a model whose layers compute otherwise in evaluation mode; with nothing trained, too."""
    lines = Lines()
    trainer = lab.trainer(tmp_path, train={"epochs": 1, "max_steps": 0} if epochs == 0 else {"epochs": epochs}, listener=lines)
    head = trainer.adapted.module.get_submodule(trainer.adapted.backbone.head)
    head.register_forward_hook(lambda module, _, output: output if module.training else output * math.inf)
    fitted = trainer.fit()
    assert fitted.diverged_at == at and len(lines.losses) == steps
    assert "the loss on validation data is not finite" in fitted.notes
    assert [line["split"] for line in lines.lines][-1] == "validation", "what was seen is kept"
