"""The shipped studies of texts, planned as they are but for where data and configurations come from."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from peftlab.planning.plan import Plan, PlanOptions
from peftlab.study.load import load_study

STUDIES = Path(__file__).parents[2] / "studies"
LARGE = ("sst2", "mrpc", "rte")


@pytest.fixture(scope="module")
def page() -> ModuleType:
    specification = importlib.util.spec_from_file_location("plan_page", STUDIES.parent / "tools" / "plan_page.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    measured(folder / "cache")
    return folder


def planned(page: ModuleType, folder: Path, name: str, **changes: Any) -> Plan:
    """Without memory and time."""

    def options(**more: Any) -> PlanOptions:
        return PlanOptions(**{**more, "cache": folder / "cache", "predict": False})

    return page.planned({**YAML(typ="safe").load(STUDIES / f"{name}.yaml"), **changes}, folder, options)[0]


def test_the_page_counts_the_tuning_too(page: ModuleType, folder: Path) -> None:
    plan = planned(page, folder, "mrpc")
    runs = [dataclasses.replace(run, predicted_s=7200.0) for run in plan.runs]
    tuning = [dataclasses.replace(run, predicted_s=3600.0) for run in plan.tuning]
    text = page.section("mrpc", dataclasses.replace(plan, runs=tuple(runs), tuning=tuple(tuning)), {})
    assert "5 configurations x 3 seeds = 15 runs, 30 core-hours; before them 40 tuning runs, 40 core-hours." in text


@pytest.mark.parametrize("name", LARGE)
def test_the_large_ones_follow_the_protocol(page: ModuleType, folder: Path, name: str) -> None:
    plan = planned(page, folder, name)
    assert not plan.refusals and not plan.warnings  # at most 0.3 %, and as many examples for both sides
    trained = {run.label: (run.trainable, run.total_parameters) for run in plan.runs}
    assert trained["full"] == (124_647_170, 124_647_170)
    assert trained["lora"] == (887_042, 124_647_170 + 294_912)  # published; 0.24 % without the head
    assert {run.seed for run in plan.runs} == {42, 1337, 2024}
    assert {(search.key[0], search.trials) for search in plan.searches} == {(label, 4) for label in trained}
    study = load_study(STUDIES / f"{name}.yaml")
    assert study.tune and {1e-4, 3e-4} < set(study.tune.grid["learning_rate"])
    assert study.train.warmup == 0.06 and study.analysis.margin.relative == 0.03 and study.analysis.baseline == "full"


def test_their_limit_refuses_what_is_above_it(page: ModuleType, folder: Path) -> None:
    plan = planned(page, folder, "rte", require={"trainable_percent": 0.2})
    refused = {run.label: run.refusal or "" for run in plan.refusals}
    assert refused.keys() == {"lora", "alpha[alpha=8]", "alpha[alpha=32]"}
    assert "trains 0.236 % of the parameters (294,912 of 124,942,082" in refused["lora"]


def test_the_ablations_have_every_rank_alpha_and_set_of_layers_once(page: ModuleType, folder: Path) -> None:
    plan = planned(page, folder, "glue-ablations-gpu", tune=None)
    found = {}
    for config in (run.config for run in plan.runs if run.config):
        adapter = config.adapter
        found[config.label] = (
            adapter["rank"],
            adapter["alpha"] or adapter["alpha_over_rank"] * adapter["rank"],
            adapter["targets"],
        )
    standard = {(4, 8, "standard"), (8, 16, "standard"), (16, 32, "standard"), (8, 8, "standard"), (8, 32, "standard")}
    assert set(found.values()) == standard | {(8, 16, "extended"), (8, 16, "all-linear")}
    assert len(found) == 7 and len(plan.runs) == 7 * 3 * 3 and not plan.refusals
    assert len({run.config.run_id for run in plan.runs if run.config}) == 63


def test_published_parameters_of_deberta(page: ModuleType, folder: Path) -> None:
    plan = planned(page, folder, "published-glue-gpu")
    trained = {run.label: run.trainable for run in plan.runs}
    head = 768 * 768 + 768 + 768 * 2 + 2
    assert trained["full"] == 184_423_682  # 184 million
    assert {label: trained[label] - head for label in ("lora", "lora-r2")} == {
        "lora": 1_327_104,
        "lora-r2": 331_776,
    }  # 1.33, 0.33
    assert trained["adalora"] > trained["lora"]  # 1.5 times as many ranks at the start


def test_published_parameters_of_llama(page: ModuleType, folder: Path) -> None:
    """QLoRA's 160 and QA-LoRA's 89 million of Xu et al. 2024, in batches of theirs; nothing is refused for what it is."""
    plan = planned(page, folder, "published-qa-lora-gpu")
    trained = {run.label: run.trainable for run in plan.runs}
    assert trained == {"qlora": 159_907_840, "qlora-int4": 159_907_840, "qa-lora": 89_309_184} and not plan.refusals
    assert {run.steps for run in plan.runs} == {10_000}
    assert {run.config.train["effective_batch_size"] for run in plan.runs if run.config} == {16}
    quantized = planned(page, folder, "published-qlora-gpu", seeds=[0])
    assert {(run.label, run.trainable, run.steps) for run in quantized.runs} == {
        ("zero-nf4", 159_907_840, 0),
        *((label, 159_907_840, 10_000) for label in ("lora", "fp4", "nf4", "nf4-double")),
    }


@pytest.mark.parametrize("name", LARGE)
def test_the_small_ones_ask_the_same_with_more_seeds(name: str) -> None:
    small, large = load_study(STUDIES / f"{name}-cpu.yaml"), load_study(STUDIES / f"{name}.yaml")
    assert set(large.seeds) < set(small.seeds) and len(small.seeds) == 5
    assert small.analysis == large.analysis
    assert isinstance(small.train.batch_size, int) and isinstance(large.train.batch_size, int)
    assert small.train.batch_size <= large.train.batch_size  # few examples, as many steps
