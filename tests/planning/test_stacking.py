"""Which runs share a process: those that stand on the same weights and gain from it, and nobody silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import OptionError
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import Planner
from peftlab.planning.stacking import JOINT_STEP_S, MOST, Stacking, check_stack, stack_key, wanted_stack, why_not
from peftlab.records.record import RunConfig
from peftlab.study.schema import Study, Train
from tests.contracts.tiny import make

DIGITS = {"kind": "image-classification", "data": "digits"}


def config(
    seed: int = 0, adapter: Any = "lora", task: Any = None, predicted: dict[str, Any] | None = None, **more: Any
) -> RunConfig:
    spec = {"name": adapter} if isinstance(adapter, str) else adapter
    train = Train(**more.pop("train", {})).model_dump(mode="json")
    about: dict[str, Any] = {
        "study": "s",
        "arm": "a",
        "label": "a",
        "slug": "a",
        "backbone_fingerprint": "b",
        "data_fingerprint": "d",
    }
    about |= {"backbone": "bundled:vit-nano", "task": task or DIGITS, "quantizer": {"name": "none"}, "allocator": None}
    return RunConfig(**{**about, "adapter": spec, "train": train, "seed": seed, "predicted": predicted or {}, **more})


def test_what_is_asked_for_is_understood_or_refused() -> None:
    assert [wanted_stack(text) for text in ("off", "auto", "4")] == ["off", "auto", 4]
    for text in ("1", "-2", "many", ""):
        with pytest.raises(OptionError, match="no way to stack") as caught:
            wanted_stack(text)
        assert caught.value.where == "--stack"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"adapter": "full"}, "trains every weight"),
        ({"adapter": {"name": "lora", "init": "pissa"}}, "pissa moves a part"),
        ({"train": {"gradient_checkpointing": True}}, "gradient checkpointing"),
        ({"predicted": {"prefix": {"block": 3}}}, "once for all runs anyway"),
        ({"predicted": {"moving": True}}, "running statistics move"),
        ({"adapter": {"name": "svd"}, "allocator": {"name": "adalora"}}, ""),
    ],
)
def test_reasons(changed: dict[str, Any], reason: str) -> None:
    found = why_not(config(**changed))
    assert (reason in found) if reason else not found


def test_companions_stand_on_the_same_weights_and_are_as_many_as_is_good() -> None:
    runs = [config(seed) for seed in range(9)]
    other = [config(20, task={**DIGITS, "image_size": 64}), config(21, adapter="full"), config(22, purpose="tuning")]
    assert len({stack_key(run) for run in (*runs, other[1])}) == 1 and len({stack_key(run) for run in (runs[0], *other)}) == 3
    queue = [*other, *runs[1:]]
    assert Stacking().companions(runs[0], queue) == []
    assert Stacking(4).companions(runs[0], queue) == runs[1:4]
    assert len(Stacking(20).companions(runs[0], queue)) == 8
    assert len(Stacking(20).companions(runs[0], queue, free=2)) == 4, "the second process gets the other half"
    assert Stacking(4).companions(other[1], queue) == []


@pytest.mark.parametrize(("step_s", "number"), [(JOINT_STEP_S / 3.5, 3), (JOINT_STEP_S * 2, 1), (1e-9, MOST), (None, 1)])
def test_the_machine_decides_by_what_a_step_takes(step_s: float | None, number: int) -> None:
    assert Stacking("auto").most(config(predicted={"step_s": step_s} if step_s else {})) == number


def study(**more: Any) -> Study:
    arms = {"full": {"adapter": "full"}, "lora": {"adapter": "lora"}}
    text: dict[str, Any] = {
        "study": "s",
        "question": "q",
        "backbone": "bundled:vit-nano",
        "task": DIGITS,
        "seeds": [0, 1],
        "arms": arms,
    }
    return Study.model_validate({**text, "analysis": {"metric": "accuracy"}, **more})


def test_a_plan_says_what_is_stacked_and_what_is_not_and_why(tmp_path: Path, measured: Callable[[Path], Path]) -> None:
    cache = measured(tmp_path / "cache")

    def notes(stack: str) -> str:
        return "\n".join(Planner(study(), PlanOptions(cache=cache, stack=stack)).plan().notes)

    assert "stack" not in notes("off")
    assert "stacked: lora, up to 4 runs in one process; the memory and time of these runs are those of all together" in notes("4")
    assert "not stacked: full: it trains every weight" in notes("4")


def test_a_plan_says_where_running_statistics_move(tmp_path: Path, measured: Callable[[Path], Path]) -> None:
    arms = {"probe": {"adapter": "linear-probe"}, "norms": {"adapter": "ln-tuning"}}
    resnet = study(backbone=str(make("resnet", tmp_path / "resnet")), arms=arms)
    for predict in (True, False):
        options = PlanOptions(cache=measured(tmp_path / "cache"), stack="4", prefix_cache_mb=0, predict=predict)
        notes = "\n".join(Planner(resnet, options).plan().notes)
        assert "stacked: probe, up to 4 runs" in notes and "not stacked: norms: running statistics move in its passes" in notes


def test_trackers_follow_one_run_in_a_process(tmp_path: Any) -> None:
    check_stack(study(trackers=["tensorboard"]), "off")
    with pytest.raises(OptionError, match="trackers") as caught:
        check_stack(study(trackers=["tensorboard"]), "auto")
    assert caught.value.where == "--stack" and "leave out --stack" in caught.value.remedy
