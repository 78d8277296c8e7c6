"""What counts as trained where ranks change: the larger of start and end; and what is left in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab.probes.parameters import Parameters
from tests.probes.conftest import view
from tests.training.conftest import Lab

TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-2}  # 24 steps
LORA = {"name": "lora", "rank": 4, "targets": "standard"}
SVD = {"name": "svd", "rank": 4, "targets": "standard"}


def counts(lab: Lab, folder: Path, adapter: dict[str, Any], allocator: dict[str, Any] | None) -> tuple[dict, dict, int]:
    """(parameters.json, ranks.json, parameters counted in the exported adapter)."""
    trainer = lab.trainer(folder, adapter, train=TRAIN, allocator=allocator)
    hook = Parameters().hook(trainer.adapted, view(trainer))
    trainer.hooks.append(hook)  # pyright: ignore
    trainer.fit()
    reports = trainer.chain.report()
    trainer.adapted.adapter.save(trainer.adapted, folder / "adapter")
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    return reports["parameters.json"], reports.get("ranks.json", {}), sum(t.numel() for n, t in saved.items() if ".lora_" in n)


def test_without_an_allocator_the_end_is_the_start(lab: Lab, tmp_path: Path) -> None:
    found, _, exported = counts(lab, tmp_path, LORA, None)
    assert found["at_end"]["trainable"] == found["trainable"]
    assert found["at_end"]["adapter"] == found["adapter"] == exported


def test_ranks_that_move_keep_their_sum_and_the_end_is_what_is_exported(lab: Lab, tmp_path: Path) -> None:
    rule = {"name": "proportional", "min_rank": 1, "warmup_steps": 4, "every": 4, "hysteresis": 0.0}
    found, ranks, exported = counts(lab, tmp_path, LORA, rule)
    assert found["at_end"]["ranks"] == ranks["ranks"] != ranks["ranks_at_start"]
    assert found["at_end"]["adapter"] == ranks["spent"]["parameters"] == exported


@pytest.mark.parametrize(
    "allocator",
    [
        {"name": "adalora", "budget": {"ranks": 6}, "initial_rank": 4, "initial_steps": 3, "final_steps": 6, "every": 2},
        {"name": "increlora", "budget": {"ranks": 12}, "every": 2, "initial_steps": 2, "add": 2},
    ],
    ids=lambda a: a["name"],
)
def test_what_is_switched_off_was_trained_and_is_not_left(lab: Lab, tmp_path: Path, allocator: dict[str, Any]) -> None:
    found, ranks, exported = counts(lab, tmp_path, SVD, allocator)
    total = sum(found["at_end"]["ranks"].values())
    assert total == sum(ranks["ranks"].values()) == allocator["budget"]["ranks"]
    assert found["at_end"]["adapter"] == exported + total  # a singular value each, which the export multiplies out
    assert found["adapter"] >= found["at_end"]["adapter"]
    if allocator["name"] == "adalora":
        assert found["adapter"] == 4 * 4 * 65
