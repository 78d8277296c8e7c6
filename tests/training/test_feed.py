"""Batches that are prepared ahead are the batches that would have been made, and nothing else of a run changes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import DataError
from peftlab.training.feed import Feed
from peftlab.training.loop import Trainer
from tests.training.conftest import Lab, Lines

TRAIN: dict[str, Any] = {
    "epochs": 1.0,
    "batch_size": 8,
    "effective_batch_size": 24,
}  # 90 examples: 24, 24, 24 and 18


def feed_of(trainer: Trainer, ahead: bool) -> Feed:
    return Feed(trainer.task, trainer.splits.train, trainer.schedule, trainer.seed, trainer.team, trainer.device, ahead=ahead)


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_prepared_batches_are_those_made_on_demand(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, train=TRAIN)
    plain, ahead = (feed_of(trainer, how) for how in (False, True))
    sizes = []
    for step in range(trainer.schedule.total):
        for (share, batch), (other_share, other) in zip(plain.step(step), ahead.step(step), strict=True):
            assert share == other_share
            assert batch.keys() == other.keys()
            assert all(torch.equal(batch[name], other[name]) for name in batch)
            sizes.append(len(batch["labels"]))
    assert sizes == [8, 8, 8] * 3 + [8, 8, 2]
    assert ahead.prepared is None, "nothing comes after the last batch"
    ahead.close()
    assert not feeders()


def test_shares_are_of_the_weight_of_a_step(lab: Lab, tmp_path: Path) -> None:
    feed = feed_of(lab.trainer(tmp_path, train=TRAIN), ahead=False)
    assert [share for share, _ in feed.step(0)] == pytest.approx([1 / 3] * 3)
    assert [share for share, _ in feed.step(3)] == pytest.approx([8 / 18, 8 / 18, 2 / 18])


def test_a_step_out_of_turn_is_made_anew(lab: Lab, tmp_path: Path) -> None:
    """As in a run that goes on from a checkpoint."""
    trainer = lab.trainer(tmp_path, train=TRAIN)
    ahead, plain = feed_of(trainer, True), feed_of(trainer, False)
    first = ahead.step(0)
    next(first)
    first.close()
    for (_, batch), (_, other) in zip(ahead.step(2), plain.step(2), strict=True):
        assert torch.equal(batch["pixel_values"], other["pixel_values"])
    ahead.close()


def test_training_ahead_gives_the_same_bits(lab: Lab, tmp_path: Path) -> None:
    found = []
    for how in (False, True):
        lines = Lines()
        trainer = lab.trainer(tmp_path / str(how), {"name": "lora", "dropout": 0.1}, train=TRAIN, listener=lines)
        trainer.feed = feed_of(trainer, how)
        trainer.fit()
        found.append((lines.losses, lines.lines, {name: p.detach().clone() for name, p in trainer.trainable.items()}))
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(found[0][2][name], found[1][2][name]) for name in found[0][2])
    assert not feeders(), "the thread ends with the training"


def test_an_example_that_cannot_be_read_is_told_when_its_turn_comes(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, train=TRAIN)
    feed = feed_of(trainer, True)
    whole, asked = trainer.task.batch, []

    def broken(indices: Any, random: Any = None) -> dict[str, torch.Tensor]:
        asked.append(len(indices))
        if len(asked) == 2:
            raise DataError("unreadable", where="photo.jpg", remedy="remove it")
        return whole(indices, random)

    trainer.task.batch = broken  # type: ignore[method-assign]  # a disk that fails
    batches = feed.step(0)
    next(batches)
    with pytest.raises(DataError, match="unreadable"):
        next(batches)
    feed.close()
    assert not feeders()
