"""``check``: every promise of an arm is tested, and a broken one is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab.execution.check import Proof, check_cell
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from tests.contracts.tiny import make


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


def proofs(backbone: str, cache: Path, arm: dict[str, Any]) -> list[Proof]:
    study = validate_study(
        {
            "study": "s",
            "backbone": backbone,
            "task": {"kind": "image-classification", "data": "digits"},
            "seeds": [0],
            "train": {"learning_rate": 0.01},
            "arms": {"arm": arm},
        }
    )
    (cell,) = cells(study)
    return list(check_cell(cell, cache, seed=0))


@pytest.mark.parametrize("adapter", ["full", "linear-probe", {"name": "lora", "targets": "all-linear"}], ids=str)
def test_an_arm_that_works_keeps_every_promise(backbone: str, tmp_path: Path, adapter: Any) -> None:
    found = proofs(backbone, tmp_path, {"adapter": adapter})
    assert [p.promise for p in found if not p.kept] == []
    assert {p.promise for p in found} >= {
        "trainable parameters as the formula says",
        "starts as the backbone",
        "trains what it should, and nothing else",
        "loss falls",
        "merged equals unmerged",
        "saved and loaded equals kept",
    }


def test_a_learning_rate_that_ruins_training_is_found(backbone: str, tmp_path: Path) -> None:
    found = proofs(backbone, tmp_path, {"adapter": "full", "learning_rate": 50.0})
    assert "loss falls" in [p.promise for p in found if not p.kept] or any("NonFinite" in p.detail for p in found)


def test_a_wrong_arm_is_told_with_its_remedy_and_no_traceback(backbone: str, tmp_path: Path) -> None:
    found = proofs(backbone, tmp_path, {"adapter": {"name": "lora", "rank": 4096}})
    (broken,) = [p for p in found if not p.kept]
    assert broken.promise == "OptionError" and "lower the rank" in broken.detail
