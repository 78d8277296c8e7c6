"""Compiling pays or not: by what was measured here, over all runs of an arm; and whoever cannot be compiled is told why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import OptionError
from peftlab.planning import compiling
from peftlab.planning.compiling import Trial, gain_and_cost, wanted_compile
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import Planner
from peftlab.study.schema import Study

MEASURED = Trial(ratio=0.8, cold_s=40.0, warm_s=10.0, operations=1000.0)


def test_only_three_answers_are_understood() -> None:
    assert [wanted_compile(text) for text in ("off", "auto", "on")] == ["off", "auto", "on"]
    with pytest.raises(OptionError, match="'yes'") as caught:
        wanted_compile("yes")
    assert caught.value.where == "--compile"


def test_the_formula() -> None:
    assert gain_and_cost(MEASURED, runs=1, seconds=100.0, operations=1000) == pytest.approx((20.0, 40.0))
    assert gain_and_cost(MEASURED, runs=5, seconds=1000.0, operations=2000) == pytest.approx((200.0, 160.0)), (
        "once cold, then warm"
    )


def study(**more: Any) -> Study:
    arms = {
        "full": {"adapter": "full"},
        "probe": {"adapter": "linear-probe"},
        "lora": {"adapter": "lora"},
        "decay": {"adapter": "lora", "allocator": "linear-decay"},
        "adalora": {"adapter": "svd", "allocator": "adalora"},
        "qlora": {"adapter": "lora", "quantizer": {"name": "groupwise", "type": "nf4", "group_size": 8}},
    }
    about: dict[str, Any] = {"study": "s", "question": "q", "backbone": "bundled:vit-nano", "seeds": [0, 1], "arms": arms}
    about |= {"task": {"kind": "image-classification", "data": "digits"}, "analysis": {"metric": "accuracy"}}
    return Study.model_validate({**about, "train": {"epochs": 5, "batch_size": 64}, **more})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


def plan(cache: Path, wanted: str, **more: Any) -> tuple[str, set[str]]:
    made = Planner(study(**more), PlanOptions(cache=cache, compile=wanted)).plan()
    return "\n".join(made.notes), {run.label for run in made.runs if run.config and run.config.predicted.get("compile")}


def test_on_and_off(cache: Path) -> None:
    assert plan(cache, "off")[1] == set()
    notes, compiled = plan(cache, "on")
    assert compiled == {"full", "lora", "decay"}
    assert "not compiled: probe: its frozen layers are computed once for all runs" in notes
    assert "not compiled: adalora: adalora changes during training what is computed" in notes
    assert "not compiled: qlora: quantized layers call kernels of their own" in notes


def test_it_decides_by_itself(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of this study take seconds, on a busy machine minutes: they never pay for a compiler, unless it is free."""
    monkeypatch.setattr(compiling, "trial", lambda *_: Trial(0.8, 1e5, 1e4, 1000.0))  # hours
    notes, compiled = plan(cache, "auto")
    assert compiled == set() and "not compiled: lora, 2 runs: predicted to save" in notes
    monkeypatch.setattr(compiling, "trial", lambda *_: Trial(0.8, 1e-3, 1e-4, 1000.0))
    notes, compiled = plan(cache, "auto")
    assert {"full", "lora", "decay"} == compiled and "compiled: lora, 2 runs: predicted to save" in notes


def test_a_run_id_is_the_same_compiled_or_not(cache: Path) -> None:
    ids = [
        [run.config.run_id for run in Planner(study(), PlanOptions(cache=cache, compile=wanted)).plan().runs if run.config]
        for wanted in ("off", "on")
    ]
    assert ids[0] == ids[1]
