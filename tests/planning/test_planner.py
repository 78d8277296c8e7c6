"""The plan: ids, grids, tuning before evaluation, refusals with reasons, one micro-batch for all arms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftlab.backbones.resolve import source_of
from peftlab.errors import DataError, OptionError, PlanRefused, StudyError
from peftlab.planning import arms as planning
from peftlab.planning.begun import begun_batches
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan, PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.registry import create
from peftlab.study.load import validate_study
from peftlab.study.task_key import task_key
from tests.contracts.tiny import make
from tests.records.examples import configuration


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-vit")
    make("vit", folder)
    return str(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


DIGITS = {"kind": "image-classification", "data": "digits"}


def raw(backbone: str, **changes: Any) -> dict[str, Any]:
    arms = changes.get("arms", ["full"])
    return {
        "study": "tiny",
        "backbone": backbone,
        "task": DIGITS,
        "seeds": [0, 1],
        "train": {"epochs": 1},
        "arms": {"full": {"adapter": "full"}, "lora": {"adapter": {"name": "lora", "rank": [2, 8]}}},
        "analysis": {"baseline": "full"} if "full" in arms and not changes.get("matrix") else {},
        **changes,
    }


def planned(backbone: str, cache: Path, *, predict: bool = False, begun: Any = None, **changes: Any) -> Plan:
    narrowed = {name: changes.pop(name) for name in ("chosen", "only") if name in changes}
    study = validate_study(raw(backbone, **changes))
    return make_plan(study, PlanOptions(cache=cache, predict=predict, begun=begun or {}, **narrowed))


def test_every_cell_and_seed_is_one_run_with_an_id_of_its_own(backbone: str, cache: Path) -> None:
    plan = planned(backbone, cache)
    assert [(run.label, run.seed) for run in plan.runs] == [
        (label, seed) for label in ("full", "lora[rank=2]", "lora[rank=8]") for seed in (0, 1)
    ]
    ids = [run.config.run_id for run in plan.runs if run.config]
    assert len(set(ids)) == 6
    assert ids == [run.config.run_id for run in planned(backbone, cache).runs if run.config]  # the same every time
    json.dumps(plan.as_dict(), allow_nan=False)


def test_the_id_follows_what_decides_the_outcome_and_not_the_names(backbone: str, cache: Path) -> None:
    def ids(**changes: Any) -> set[str]:
        return {run.config.run_id for run in planned(backbone, cache, **changes).runs if run.config}

    before = ids()
    assert ids(study="renamed") == before
    assert ids(arms={"all": {"adapter": "full"}, "low": {"adapter": {"name": "lora", "rank": [2, 8]}}}, analysis={}) == before
    assert ids(train={"epochs": 2}).isdisjoint(before)
    assert ids(seeds=[1, 2]) & before  # seed 1 is reused
    assert ids(task={"kind": "image-classification", "data": "digits", "train_size": 100}).isdisjoint(before)


def test_short_and_explicit_forms_of_a_component_give_one_id(backbone: str, cache: Path, tmp_path: Path) -> None:
    def configs(data: Any, arm: dict[str, Any]) -> list[Any]:
        plan = planned(backbone, cache, task={"kind": "image-classification", "data": data}, arms={"arm": arm}, analysis={})
        return [run.config for run in plan.runs]

    np.savez(tmp_path / "a.npz", images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40) % 2)
    path = str(tmp_path / "a.npz")
    short = configs("digits", {"adapter": "lora", "allocator": "uniform"})
    spelt = {"adapter": {"name": "lora", "rank": 8}, "allocator": {"name": "uniform"}, "quantizer": {"name": "none"}}
    explicit = configs({"name": "digits"}, spelt)
    assert [c.run_id for c in short] == [c.run_id for c in explicit]
    assert explicit[0].task["data"] == {"name": "digits"}, "the explicit form is what the id covers"
    forms = [path, {"name": "npz", "path": path}, {"name": "npz", "path": path, "label": "labels"}]
    assert len({configs(form, {"adapter": "lora"})[0].run_id for form in forms}) == 1


def test_tasks_that_differ_in_an_option_of_their_data_are_told_apart() -> None:
    fine, coarse = ({"kind": "k", "data": {"name": "npz", "path": "a", "label": label}} for label in ("fine", "coarse"))
    assert task_key(fine) == "k:a[data.label=fine]" and task_key(coarse) == "k:a[data.label=coarse]"
    assert task_key({"kind": "k", "data": "digits"}) == task_key({"kind": "k", "data": {"name": "digits"}}) == "k:digits"


def test_counts_are_those_of_the_closed_formula(backbone: str, cache: Path) -> None:
    by_label = {run.label: run for run in planned(backbone, cache).runs}
    full, small, large = (by_label[label] for label in ("full", "lora[rank=2]", "lora[rank=8]"))
    assert full.trainable == full.total_parameters
    head = full.total_parameters - large.total_parameters + large.trainable - 0
    added = large.total_parameters - full.total_parameters
    assert added == 4 * (small.total_parameters - full.total_parameters)  # linear in the rank
    assert large.trainable == added + (small.trainable - added // 4)
    assert head == large.trainable - added


def test_tuning_comes_first_and_evaluation_waits_for_it(backbone: str, cache: Path) -> None:
    tune = {"learning_rate": [1e-3, 1e-2], "seeds": [100]}
    plan = planned(backbone, cache, tune=tune)
    assert plan.pending
    assert len(plan.tuning) == 3 * 2
    assert all(run.config and not run.config.evaluate_test and run.config.purpose == "tuning" for run in plan.tuning)
    assert {run.config.train["learning_rate"] for run in plan.tuning if run.config} == {1e-3, 1e-2}
    first = plan.runs[0]
    chosen = {run.key: {"learning_rate": 1e-2} for run in plan.runs}
    after = planned(backbone, cache, tune=tune, chosen=chosen)
    assert not after.pending and first.config is None
    assert all(run.config and run.config.train["learning_rate"] == 1e-2 and run.config.tuned for run in after.runs)


def test_an_arm_that_takes_no_step_is_not_tuned(backbone: str, cache: Path) -> None:
    arms = {"untrained": {"adapter": "lora", "max_steps": 0}, "lora": {"adapter": "lora"}}
    plan = planned(backbone, cache, arms=arms, tune={"learning_rate": [1e-3, 1e-2], "seeds": [100]})
    assert {run.label for run in plan.tuning} == {"lora"} == {search.key[0] for search in plan.searches}
    assert {run.label: run.config is not None for run in plan.runs} == {"untrained": True, "lora": False}
    assert "untrained takes no step: nothing of it is tuned" in plan.notes
    searched = planned(backbone, cache, arms=arms, tune={"max_steps": [0, 4], "seeds": [100]})
    assert {run.label for run in searched.tuning} == {"untrained", "lora"}


ADALORA = {"ada": {"adapter": "svd", "allocator": {"name": "adalora", "initial_steps": 5, "final_steps": 20}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"epochs": 1}},  # 17 steps; `--set train.epochs=1` is this
        {"train": {"epochs": 5}, "tune": {"epochs": [5, 1], "seeds": [100]}},
        {"train": {"epochs": 5}, "tune": {"max_steps": [80, 25], "seeds": [100]}},
        {"train": {"epochs": 5}, "tune": {"effective_batch_size": [64, 320], "seeds": [100]}},
    ],
)
def test_a_schedule_that_an_allocator_cannot_keep_is_refused_whichever_key_brings_it(
    backbone: str, cache: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=r"the run must be longer|no mask is due"):
        planned(backbone, cache, arms=ADALORA, analysis={}, **changes)
    allowed = {"train": {"epochs": 5}, "tune": {"epochs": [5, 6], "seeds": [100]}}
    assert len(planned(backbone, cache, arms=ADALORA, analysis={}, **allowed).tuning) == 2


def test_a_tuning_run_has_the_steps_of_its_own_values(backbone: str, cache: Path) -> None:
    plan = planned(backbone, cache, tune={"epochs": [1, 3], "seeds": [100]}, arms={"full": {"adapter": "full"}})
    assert [run.steps for run in plan.tuning] == [17, 51]
    with pytest.raises(StudyError, match="above 0"):
        planned(backbone, cache, tune={"learning_rate": [1e-3, -1.0], "seeds": [100]})


def test_max_runs_caps_the_evaluation_runs_and_the_tuning_they_need(backbone: str, cache: Path) -> None:
    study = validate_study(raw(backbone, tune={"learning_rate": [1e-3, 1e-2], "seeds": [100]}))
    plan = make_plan(study, PlanOptions(cache=cache, predict=False, max_runs=3))
    assert [run.label for run in plan.runs] == ["full", "full", "lora[rank=2]"]
    assert {run.label for run in plan.tuning} == {"full", "lora[rank=2]"}


def test_folds_multiply_the_runs(backbone: str, cache: Path) -> None:
    plan = planned(backbone, cache, task={"kind": "image-classification", "data": "digits", "folds": 3})
    assert len(plan.runs) == 3 * 3 * 2
    assert {run.fold for run in plan.runs} == {0, 1, 2}


def test_each_fold_is_tuned_by_itself(backbone: str, cache: Path) -> None:
    """What a fold is tested on has no part in choosing the values that it is run with."""
    spec = {"kind": "image-classification", "data": "digits", "folds": 3, "train_size": 200, "validation_size": 60}
    tune = {"learning_rate": [1e-3, 1e-2], "seeds": [100]}
    asked = {"task": spec, "tune": tune, "arms": {"full": {"adapter": "full"}}}
    plan = planned(backbone, cache, **asked)
    assert [(run.fold, run.trial) for run in plan.tuning] == [(fold, trial) for fold in range(3) for trial in range(2)]
    assert [search.key.fold for search in plan.searches] == [0, 1, 2]
    assert "tuning (grid): 2 trials for every arm and fold, over learning_rate 0.001 or 0.01" in plan.notes
    task = create("task", spec, key="kind").prepare(source_of(backbone).preprocessing(backbone, None), cache)
    for run in plan.tuning:
        assert run.config is not None and run.config.fold == run.fold
        used = task.splits(run.seed, run.config.fold)
        for tested in (task.splits(seed, run.fold).test for seed in (0, 1)):
            assert not np.intersect1d(tested, np.concatenate([used.train, used.validation])).size
    chosen = {search.key: {"learning_rate": rate} for search, rate in zip(plan.searches[1:], (1e-3, 1e-2), strict=True)}
    after = planned(backbone, cache, chosen=chosen, **asked)
    rates = {(run.fold, run.config.train["learning_rate"] if run.config else None) for run in after.runs}
    assert rates == {(0, None), (1, 1e-3), (2, 1e-2)}
    narrowed = make_plan(validate_study(raw(backbone, **asked)), PlanOptions(cache=cache, predict=False, max_runs=3))
    assert {run.fold for run in narrowed.runs} == {run.fold for run in narrowed.tuning} == {0, 1}


def test_matrix_crosses_every_arm(backbone: str, cache: Path) -> None:
    tasks = [{"kind": "image-classification", "data": "digits", "image_size": size} for size in (32, 48)]
    plan = planned(backbone, cache, matrix={"task": tasks, "weight_decay": [0.0, 0.1]})
    assert len(plan.runs) == 3 * 2 * 2 * 2
    assert len({run.config.run_id for run in plan.runs if run.config}) == len(plan.runs)


def test_only_names_an_arm_or_a_label(backbone: str, cache: Path) -> None:
    assert {run.label for run in planned(backbone, cache, only=["lora"]).runs} == {"lora[rank=2]", "lora[rank=8]"}
    assert {run.label for run in planned(backbone, cache, only=["lora[rank=8]"]).runs} == {"lora[rank=8]"}
    with pytest.raises(StudyError, match="no arm 'lroa'") as raised:
        planned(backbone, cache, only=["lroa"])
    assert "lora" in raised.value.remedy


def test_a_share_above_the_required_one_is_refused_and_full_fine_tuning_is_not(backbone: str, cache: Path) -> None:
    free = {run.label: run for run in planned(backbone, cache).runs}
    lora = free["lora[rank=8]"]
    d, blocks, head = 32, 2, 32 * 10 + 10
    adapter = blocks * 2 * 8 * (d + d)  # q and v
    assert lora.trainable == adapter + head
    share = 100 * adapter / lora.total_parameters
    plan = planned(backbone, cache, require={"trainable_percent": share - 0.01})
    assert {run.label for run in plan.refusals} == {"lora[rank=8]"}
    said = plan.refusals[0].refusal or ""
    assert f"trains {share:.3g} % of the parameters ({adapter:,} of {lora.total_parameters:,}, without the head's {head})" in said
    assert f"requires at most {share - 0.01:g} %; lower its rank" in said
    assert plan.refusals[0].config is None
    assert not planned(backbone, cache, require={"trainable_percent": share + 0.01}).refusals
    counted = {"trainable_percent": share + 0.01, "count_head": True}
    assert {run.label for run in planned(backbone, cache, require=counted).refusals} == {"lora[rank=8]"}


def test_where_every_arm_is_refused_each_is_named(backbone: str, cache: Path) -> None:
    with pytest.raises(PlanRefused, match=r"lora\[rank=2\]: trains .*; lora\[rank=8\]: trains "):
        planned(backbone, cache, require={"trainable_percent": 0.01}, only=["lora"])


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"arms": {"x": {"adapter": {"name": "lroa"}}}}, OptionError, "lora"),
        ({"arms": {"x": {"adapter": {"name": "lora", "rnak": 4}}}}, OptionError, "rank"),
        ({"arms": {"x": {"adapter": {"name": "lora", "rank": 4096}}}}, OptionError, "min"),
        ({"arms": {"x": {"adapter": {"name": "lora", "targets": "no_such_layer"}}}}, OptionError, "no_such_layer"),
        ({"arms": {"x": {"adapter": "full", "allocator": "uniform"}}}, OptionError, "no rank"),
        ({"task": {"kind": "image-classification", "data": "./nowhere"}}, DataError, "nowhere"),
        ({"task": {"kind": "image-clasification", "data": "digits"}}, OptionError, "image-classification"),
        ({"analysis": {"metric": "acuracy"}}, StudyError, "accuracy"),
        ({"analysis": {"baseline": "ful"}}, StudyError, "Did you mean 'full'"),
        ({"analysis": {"baseline": "lora"}}, StudyError, "stands for several arms"),
        ({"matrix": {"task": [DIGITS, {**DIGITS, "image_size": None}]}}, StudyError, "digits[image_size=None] are the same task"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    backbone: str, cache: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        planned(backbone, cache, **changes)
    assert said in str(raised.value)


def with_memory(monkeypatch: pytest.MonkeyPatch, cache: Path, spare_mb: float) -> None:
    """This machine, but with so much memory free beyond what a bare worker takes."""
    machine = Machine.here(cache)
    _as_if(monkeypatch, dataclasses.replace(machine, available_mb=(machine.process_mb + spare_mb) / 0.9))


def on_device(monkeypatch: pytest.MonkeyPatch, cache: Path, device: str) -> None:
    """This machine, but with another device chosen."""
    _as_if(monkeypatch, dataclasses.replace(Machine.here(cache), device=device))


def _as_if(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    class Elsewhere(Machine):
        @classmethod
        def here(cls, cache: Path, *, device: str = "auto", worker: str = "") -> Machine:
            return machine

    monkeypatch.setattr(planning, "Machine", Elsewhere)


def test_a_run_that_cannot_fit_is_refused_with_the_largest_batch_that_would(
    backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, cache, 6.0)
    with pytest.raises(PlanRefused, match="largest batch_size that would fit is"):
        planned(backbone, cache, predict=True, train={"batch_size": 512})


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="a device that bitsandbytes cannot run on is needed")
def test_a_quantizer_that_the_device_cannot_run_is_refused(backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_device(monkeypatch, cache, "mps")
    arms = {"lora": {"adapter": "lora"}, "qlora": {"adapter": "lora", "quantizer": {"name": "bnb", "bits": 4}}}
    plan = planned(backbone, cache, arms=arms, analysis={})
    assert {run.label for run in plan.refusals} == {"qlora"}
    assert "mps cannot run bitsandbytes nf4" in (plan.refusals[0].refusal or "")
    assert plan.refusals[0].config is None


#: (device, quantizer, what the refusal says); none of these devices is there
NOT_HERE = [
    *(
        (device, {"name": "bnb", **options}, f"{device} cannot run bitsandbytes {scheme}")
        for device in ("mps", "cuda")
        for options, scheme in (
            ({"bits": 8}, "int8"),
            ({"bits": 4}, "nf4"),
            ({"bits": 4, "double": True}, "nf4-double"),
            ({"bits": 4, "type": "fp4"}, "fp4"),
            ({"bits": 4, "type": "fp4", "double": True}, "fp4-double"),
        )
    ),
    ("mps", {"name": "int8-dynamic"}, "mps is not what int8-dynamic is for"),
    ("cuda", {"name": "int8-dynamic"}, "cuda is not what int8-dynamic is for"),
    ("cpu", {"name": "int8-dynamic"}, "this processor has no instructions"),
]


@pytest.mark.parametrize(("device", "quantizer", "why"), NOT_HERE, ids=[why for _, _, why in NOT_HERE])
def test_a_scheme_that_a_device_cannot_run_is_refused_in_the_plan(
    device: str, quantizer: dict[str, Any], why: str, backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs, and that arm alone; group-wise weights are plain torch, and run everywhere."""
    if device != "cpu" and getattr(torch, device).is_available():
        pytest.skip(f"{device} is here")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    on_device(monkeypatch, cache, device)
    arms = {
        "refused": {"adapter": "lora", "quantizer": quantizer},
        "after": {"adapter": "lora", "quantizer": quantizer, "quantize": "after"},
        "float": {"adapter": "lora"},
        **{
            kind: {"adapter": "lora", "quantizer": {"name": "groupwise", "type": kind, "group_size": 16}}
            for kind in ("int4", "int8", "nf4", "fp4")
        },
    }
    plan = planned(backbone, cache, arms=arms, analysis={"baseline": "float"})
    assert {run.label for run in plan.refusals} == {"refused", "after"}
    assert all(why in (run.refusal or "") and run.config is None for run in plan.refusals)


def test_batch_size_auto_is_one_micro_batch_for_all_arms_at_a_fixed_effective_one(
    backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = planned(backbone, cache, predict=True, train={"batch_size": "auto", "effective_batch_size": 256})
    assert {run.config.train["batch_size"] for run in roomy.runs if run.config} == {256}
    with_memory(monkeypatch, cache, 6.0)
    plan = planned(backbone, cache, predict=True, train={"batch_size": "auto", "effective_batch_size": 256})
    batches = {run.config.train["batch_size"] for run in plan.runs if run.config}
    assert len(batches) == 1 and 1 <= batches.pop() < 256
    assert {run.config.train["effective_batch_size"] for run in plan.runs if run.config} == {256}
    assert all(run.estimate and run.estimate.peak_mb <= 0.9 * plan.machine["available_mb"] for run in plan.runs)


def test_a_tuned_batch_is_predicted_and_refused_by_the_values_that_are_tried(
    backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by that of the study file, which is never used."""
    asked: dict[str, Any] = {"predict": True, "arms": {"full": {"adapter": "full"}}}
    alone = {b: planned(backbone, cache, train={"epochs": 1, "batch_size": b}, **asked).runs[0] for b in (16, 256)}
    tune = {"batch_size": [16, 256], "seeds": [100]}
    plan = planned(backbone, cache, tune=tune, **asked)
    peaks = {b: run.estimate.peak_mb for b, run in alone.items() if run.estimate}
    assert [run.estimate and run.estimate.peak_mb for run in plan.tuning] == [*peaks.values()] and peaks[16] < peaks[256]
    assert [run.predicted_s for run in plan.tuning] == [run.predicted_s for run in alone.values()]
    (search,) = plan.searches
    after = planned(backbone, cache, tune=tune, chosen={search.key: {"batch_size": 16}}, **asked).runs[0]
    assert after.config is not None and after.config.predicted["peak_mb"] == pytest.approx(peaks[16], abs=1e-3)
    with_memory(monkeypatch, cache, 6.0)
    for sampler in ({"sampler": "grid"}, {"sampler": "random", "trials": 2}):
        with pytest.raises(PlanRefused, match=r"full: with batch_size 256: .*largest batch_size that would fit is"):
            planned(backbone, cache, tune={**tune, **sampler}, train={"epochs": 1, "batch_size": 4}, **asked)
    fits = planned(backbone, cache, tune={**tune, "batch_size": [1, 2]}, train={"epochs": 1, "batch_size": 256}, **asked)
    assert not fits.refusals


def test_a_study_that_is_continued_keeps_the_batch_it_was_begun_with(
    backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else other free memory today would give every run another id, and all would be done again."""
    auto = {"batch_size": "auto", "effective_batch_size": 256}

    def plan(begun: Any = None) -> list[RunConfig]:
        return [run.config for run in planned(backbone, cache, predict=True, train=auto, begun=begun).runs if run.config]

    roomy = plan()
    with_memory(monkeypatch, cache, 6.0)
    tight = plan()
    assert roomy[0].train["batch_size"] == 256 > tight[0].train["batch_size"]
    begun = []
    for name, first in (("roomy", roomy[0]), ("tight", tight[0])):
        folder = ResultsFolder(tmp_path / name).open_or_create("study: s\n")
        folder.run(first).create(first)
        begun.append(begun_batches(folder))
    with pytest.raises(PlanRefused, match="largest batch_size that would fit is"):
        plan(begun[0])
    monkeypatch.undo()
    assert [config.run_id for config in plan(begun[1])] == [config.run_id for config in tight]


def test_a_study_with_imported_and_tuned_arms_can_be_continued(tmp_path: Path) -> None:
    """What was trained elsewhere has no batch, and one that the tuning tries is not that of the study."""
    folder = ResultsFolder(tmp_path / "results").open_or_create("study: s\n")
    for changes in (
        {"label": "theirs", "train": {}},
        {"label": "tried", "train": {"batch_size": 8}, "tuned": {"batch_size": 8}, "purpose": "tuning"},
        {"label": "ours", "train": {"batch_size": 16}},
    ):
        config = configuration(**changes)
        folder.run(config).create(config)
    assert [(key[0], batch) for key, batch in begun_batches(folder).items()] == [("ours", 16)]


def test_tasks_on_the_same_data_go_on_with_a_batch_each(backbone: str, cache: Path, tmp_path: Path) -> None:
    task, auto = {"kind": "image-classification", "data": "digits"}, {"batch_size": "auto", "effective_batch_size": 64}
    tasks = [{**task, "image_size": size} for size in (32, 48)]
    asked: dict[str, Any] = {"predict": True, "train": auto, "matrix": {"task": tasks}, "arms": {"full": {"adapter": "full"}}}
    folder = ResultsFolder(tmp_path / "results").open_or_create("study: s\n")
    for run in planned(backbone, cache, **asked).runs:
        assert run.config is not None
        batch = 16 if "32" in run.task else 4
        config = run.config.model_copy(update={"train": {**run.config.train, "batch_size": batch}})
        folder.run(config).create(config)
    again = planned(backbone, cache, begun=begun_batches(folder), **asked)
    assert {(run.task[-3:-1], run.config.train["batch_size"]) for run in again.runs if run.config} == {("32", 16), ("48", 4)}


def test_an_automatic_batch_divides_the_effective_batch_of_every_arm(backbone: str, cache: Path) -> None:
    given = {"a": {}, "b": {"effective_batch_size": 48}, "c": {"effective_batch_size": 100}}
    arms = {name: {"adapter": "lora", **train} for name, train in given.items()}
    auto = {"batch_size": "auto", "effective_batch_size": 64}
    plan = planned(backbone, cache, predict=True, train=auto, arms=arms, analysis={})
    assert {(run.label, run.config.train["batch_size"]) for run in plan.runs if run.config} == {("a", 4), ("b", 4), ("c", 4)}


def test_an_automatic_batch_divides_every_effective_batch_that_is_tried(backbone: str, cache: Path) -> None:
    tune = {"effective_batch_size": [32, 64, 96], "seeds": [100]}
    plan = planned(
        backbone, cache, predict=True, train={"batch_size": "auto"}, arms={"lora": {"adapter": "lora"}}, analysis={}, tune=tune
    )
    assert {run.config.train["batch_size"] for run in plan.tuning if run.config} == {32}


def test_an_automatic_batch_is_no_answer_to_a_refusal(backbone: str, cache: Path) -> None:
    """An arm that trains more than the study allows is refused whatever its batch."""
    arms = {f"r{rank}": {"adapter": {"name": "lora", "rank": rank, "targets": "all-linear"}} for rank in (1, 32)}
    for batch in (64, "auto"):
        plan = planned(
            backbone, cache, predict=True, train={"batch_size": batch, "effective_batch_size": 64}, arms=arms, analysis={},
            require={"trainable_percent": 20},
        )  # fmt: skip
        assert {run.label: run.config is not None and not run.refusal for run in plan.runs} == {"r1": True, "r32": False}
        assert all("trains" in str(run.refusal) for run in plan.runs if run.label == "r32")


def test_an_automatic_batch_is_settled_by_the_largest_that_is_tried(
    backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_of(rank: int, batch: Any, tune: dict[str, Any]) -> Plan:
        arms = {"lora": {"adapter": {"name": "lora", "rank": rank, "targets": "all-linear"}}}
        more = {"tune": {**tune, "seeds": [100]}} if tune else {}
        train = {"batch_size": batch, "effective_batch_size": 64}
        return planned(backbone, cache, predict=True, train=train, arms=arms, analysis={}, **more)

    peaks = [run.estimate.peak_mb for rank in (1, 32) for run in plan_of(rank, 64, {}).runs[:1] if run.estimate]
    with_memory(monkeypatch, cache, sum(peaks) / 2 - Machine.here(cache).process_mb)

    def batch(rank: int, **tune: Any) -> int:
        plan = plan_of(rank, "auto", tune)
        assert not plan.refusals
        (found,) = {run.config.train["batch_size"] for run in (*plan.tuning, *plan.runs) if run.config}
        return found

    small, large = batch(1), batch(32)
    assert small > large
    assert batch(1, **{"adapter.rank": [1, 32]}) == batch(1, **{"adapter.rank": [32, 1]}) == large
    assert batch(32, **{"adapter.rank": [1]}) == small, "the rank of the study file is never used"


@pytest.mark.parametrize(
    ("arms", "more", "said"),
    [
        ({"full": {}, "lora": {}}, {}, []),
        ({"full": {"batch_size": 32}, "lora": {}}, {}, ["effective batch size: 64 for lora, where the baseline full has 32"]),
        ({"full": {"batch_size": 32}, "lora": {"batch_size": 16, "effective_batch_size": 32}}, {}, []),
        (
            {"full": {}, "lora": {"epochs": 3}},
            {},
            ["length of training: 3 epochs for lora, where the baseline full has 1 epochs"],
        ),
        ({"full": {}, "lora": {"max_steps": 9}}, {}, ["length of training: 1 epochs, at most 9 steps for lora"]),
        ({"full": {}, "lora": {"max_steps": 0}}, {}, []),  # not trained at all: that is what it is there for
        ({"full": {}, "lora": {}}, {"tune": {"epochs": [1, 2], "seeds": [100]}}, []),
        ({"full": {"batch_size": 8}, "lora": {}}, {"analysis": {}}, ["effective batch size: 8 for full; 64 for lora."]),
        ({"full": {}, "lora": {"batch_size": [8, 64]}}, {}, ["effective batch size: 8 for lora[batch_size=8], where"]),
    ],
)
def test_arms_that_are_not_trained_as_much_as_the_baseline_are_named(
    arms: dict[str, Any], more: dict[str, Any], said: list[str], backbone: str, cache: Path
) -> None:
    given = {name: {"adapter": name, **train} for name, train in arms.items()}
    plan = planned(backbone, cache, arms=given, **more)
    assert len(plan.warnings) == len(said)
    assert all(text in warning for text, warning in zip(said, plan.warnings, strict=True))
    assert plan.as_dict()["warnings"] == list(plan.warnings)


def test_other_tasks_are_no_confound(backbone: str, cache: Path) -> None:
    tasks = [{"kind": "image-classification", "data": "digits", "image_size": size} for size in (32, 48)]
    arms = {"full": {"adapter": "full"}, "lora": {"adapter": "lora", "batch_size": 8}}
    plan = planned(backbone, cache, matrix={"task": tasks}, arms=arms)
    assert len(plan.warnings) == 2 and all("image_size=" in warning for warning in plan.warnings)


def test_the_plan_says_which_classes_and_splits_were_read(backbone: str, cache: Path) -> None:
    """The first note: whoever named the wrong folder or column sees it there."""
    task = {"kind": "image-classification", "data": "digits", "train_size": 200, "validation_size": 60, "test_size": 100}
    told = "data: 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9); "
    assert planned(backbone, cache, task=task).notes[0] == told + "200 to train on, 60 to validate, 100 to test"
    folded = planned(backbone, cache, task={"kind": "image-classification", "data": "digits", "folds": 3}).notes[0]
    assert folded.startswith(told) and folded.endswith("(the first of 3 folds)")


TRIPLET_ALLOCATORS = (
    {"name": "adalora", "every": 3},
    {"name": "sora", "threshold": 0.05},
    {"name": "increlora", "budget": {"ranks": 8}, "every": 3},
)


@pytest.mark.parametrize("allocator", TRIPLET_ALLOCATORS, ids=lambda spec: spec["name"])
def test_triplets_over_groups_are_planned_with_every_allocator_of_triplets(
    backbone: str, cache: Path, allocator: dict[str, Any]
) -> None:
    """Shapes alone are known to a plan: nobody may ask there how many triplets have survived."""
    pooled = {"adapter": {"name": "pooled", "form": "svd", "group_size": 8, "rank": 2}, "allocator": allocator}
    found = planned(backbone, cache, predict=True, arms={"full": {"adapter": "full"}, "pooled": pooled})
    assert not found.refusals and len(found.runs) == 4 and all(run.predicted_s is not None for run in found.runs)
