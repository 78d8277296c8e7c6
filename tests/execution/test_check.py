"""``check``: every promise of an arm is tested, and a broken one is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.execution.check import Proof, check_cell
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.schema import Study
from tests.contracts.tiny import make


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


def proofs(backbone: str, cache: Path, arm: dict[str, Any]) -> list[Proof]:
    (cell,) = cells(study(backbone, arm))
    return list(check_cell(cell, cache, seed=0))


def study(backbone: str, arm: dict[str, Any]) -> Study:
    return validate_study(
        {
            "study": "s",
            "backbone": backbone,
            "task": {"kind": "image-classification", "data": "digits"},
            "seeds": [0],
            "train": {"learning_rate": 0.01},
            "arms": {"arm": arm},
        }
    )


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


def test_a_tuned_arm_is_checked_at_the_learning_rates_that_are_tried(backbone: str, tmp_path: Path) -> None:
    """The lowest first; where the loss does not fall, the next, up to the highest."""

    def falls(*rates: float) -> Proof:
        (cell,) = cells(study(backbone, {"adapter": "full", "learning_rate": 50.0}))
        return next(p for p in check_cell(cell, tmp_path, 0, rates=rates) if p.promise == "loss falls")

    assert falls(0.01, 0.001).kept and "at learning_rate 0.001" in falls(0.01, 0.001).detail
    ruined = falls(2.0, 3.0)
    assert not ruined.kept and ruined.detail.endswith("at learning_rate 3, which may be too high for this arm")


def test_the_api_hands_the_tuned_learning_rates_on(
    backbone: str, tmp_path: Path, measured: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peftlab import api

    monkeypatch.setenv("PEFTLAB_CACHE", str(measured(tmp_path / "cache")))
    file = tmp_path / "study.yaml"
    file.write_text(
        f"study: s\nbackbone: {backbone}\ntask: {{kind: image-classification, data: digits}}\nseeds: [0]\n"
        "train: {learning_rate: 50.0}\ntune: {learning_rate: {low: 1e-3, high: 1e-2}, sampler: random, trials: 2, seeds: [9]}\n"
        "arms: {full: {adapter: full}}\nanalysis: {metric: accuracy}\n"
    )
    answer = api.check(file)
    assert answer.exit_code == 0, answer["proofs"]
    assert any("at learning_rate 0.001" in proof.detail for proof in answer["proofs"])
