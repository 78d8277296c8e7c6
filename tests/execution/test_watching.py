"""How much a step computes with is what its batches really hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.execution.protocol import WorkerOptions
from peftlab.execution.watching import amounts
from peftlab.training.loop import Trainer
from tests.execution.test_fused_record import finish
from tests.execution.test_worker import backbone, config, folder, light_fork_server
from tests.probes.conftest import Lab, cache, lab, text_trainer, tiny_backbone


def fed(trainer: Trainer, step: int) -> list[Any]:
    """The first input of every micro-batch of a step."""
    return [next(iter(trainer.task.inputs(batch).values())) for _, batch in trainer.feed.step(step)]


def test_of_images_it_is_examples_also_of_the_last_step_of_an_epoch(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe", train={"epochs": 2, "batch_size": 16, "effective_batch_size": 32})
    amount = amounts(trainer.task, trainer.splits, trainer.train, trainer.seed)
    found = [amount(step) for step in range(trainer.schedule.total)]
    assert found == [32, 32, 26, 32, 32, 26]
    assert found == [sum(map(len, fed(trainer, step))) for step in range(trainer.schedule.total)]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_of_texts_it_is_tokens_with_padding(text_trainer: Callable[[str, Any], Trainer], kind: str) -> None:
    trainer = text_trainer(kind, "linear-probe" if kind == "bert" else {"name": "lora"})
    amount = amounts(trainer.task, trainer.splits, trainer.train, trainer.seed)
    for step in range(trainer.schedule.total):
        assert amount(step) == sum(batch.numel() for batch in fed(trainer, step))


def test_a_model_made_anew_has_the_ranks_that_an_allocator_found(tmp_path: Path, backbone: str) -> None:
    """LoRA-XS's R is r x r: beside one of other ranks nothing could be measured, and a trained run would end in an error."""
    by_spectra = {"name": "alphalora", "level": "module", "beta": 4.0, "tail": 0.25}
    plain = config(backbone, {"name": "lora-xs", "rank": 4, "targets": "all-linear"}, epochs=0.2)
    wanted = plain.model_copy(update={"allocator": by_spectra})
    run = folder(tmp_path / "results").run(wanted)
    finish(run, wanted, WorkerOptions(cache=tmp_path / "cache", device="cpu"))
    ranks = run.read_json("ranks.json")["ranks"]
    assert len({*ranks.values()}) > 1
    norms = run.read_json("adapter_norms.json")["modules"]
    assert {*norms} == {site for site, rank in ranks.items() if rank} and all(m["end"]["update"] > 0 for m in norms.values())


__all__ = ["backbone", "cache", "lab", "light_fork_server", "text_trainer", "tiny_backbone"]
