"""What is predicted of texts depends on how long they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.study.load import validate_study
from tests.tasks.texts import shared_bert, write_tsv


def test_longer_texts_take_more_memory_and_time(tmp_path: Path, measured: Callable[[Path], Path]) -> None:
    cache = measured(tmp_path / "cache")

    def task(name: str, words: int, **options: Any) -> dict[str, Any]:
        data = write_tsv(tmp_path / f"{name}.tsv", [(f"film {i} " + "plot " * words, i % 2) for i in range(60)], "text\tlabel")
        return {"kind": "text-classification", "data": str(data), **options}

    tasks = [task("short", 3), task("long", 40), task("cut", 40, max_length=8)]
    study = {
        "study": "texts",
        "question": "How much do they take?",
        "backbone": str(shared_bert()),
        "task": tasks[0],
        "matrix": {"task": tasks},
        "seeds": [0],
        "train": {"epochs": 1, "batch_size": 16},
        "arms": {"lora": {"adapter": "lora"}},
        "analysis": {"baseline": "lora", "margin": {"absolute": 0.05}},
    }
    plan = make_plan(validate_study(study), PlanOptions(cache=cache, device="cpu"))
    short, long, cut = (run.estimate for run in plan.runs)
    assert short and long and cut
    activations = [found.parts_mb["activations"] for found in (short, long, cut)]
    assert activations[1] > 3 * activations[0] and activations[2] < 2 * activations[0]
    assert long.step_flops > 3 * short.step_flops


def test_time_goes_by_the_texts_that_are_there_and_memory_by_the_longest(
    tmp_path: Path, measured: Callable[[Path], Path]
) -> None:
    cache = measured(tmp_path / "cache")

    def seconds(name: str, long: int) -> tuple[float, float]:
        texts = [(f"film {i} " + "plot " * (40 if i % 60 < long else 3), i % 2) for i in range(240)]
        data = write_tsv(tmp_path / f"{name}.tsv", texts, "text\tlabel")
        study = {
            "study": "texts",
            "question": "How long does it take?",
            "backbone": str(shared_bert()),
            "task": {"kind": "text-classification", "data": str(data)},
            "seeds": [0],
            "train": {"epochs": 1, "batch_size": 16},
            "arms": {"lora": {"adapter": "lora"}},
            "analysis": {"baseline": "lora", "margin": {"absolute": 0.05}},
        }
        (run,) = make_plan(validate_study(study), PlanOptions(cache=cache, device="cpu")).runs
        assert run.estimate and run.predicted_s
        return run.estimate.peak_mb, run.predicted_s

    (few_mb, few_s), (many_mb, many_s) = seconds("few", 2), seconds("many", 60)
    assert few_mb == many_mb
    assert few_s < many_s / 3
