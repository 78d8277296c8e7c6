"""The shipped studies of quantized arms, planned as they are but for where data and configurations come from."""

from __future__ import annotations

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from peftlab.planning.plan import Plan, PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.study.load import validate_study
from tests.tasks.builders import write_npz_folder

STUDIES = Path(__file__).parents[2] / "studies"
CLASSES = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    measured(folder / "cache")
    return folder


def raw(name: str, folder: Path) -> dict[str, Any]:
    """The study with hub names replaced by folders that say the same architecture, and data sets by noise with as many classes.

    A plan reads no weights: those that the folders hold are none of the model's.
    """
    study = YAML(typ="safe").load(STUDIES / f"{name}.yaml")
    study["matrix"]["backbone"] = [architecture(timm_name, folder) for timm_name in study["matrix"]["backbone"]]
    study["backbone"] = study["matrix"]["backbone"][0]
    for task in (study["task"], *study["matrix"]["task"]):
        classes = CLASSES[task["data"]]
        path = folder / task["data"]
        task["data"] = str(path if path.exists() else write_npz_folder(path, classes=classes, train=10, test=2))
    return study


def architecture(timm_name: str, folder: Path) -> str:
    path = folder / timm_name.removeprefix("timm/").split(".")[0]
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"architecture": path.name, "num_classes": 1000}))
    save_file({"none": torch.zeros(1)}, path / "model.safetensors")
    return str(path)


def planned(name: str, folder: Path, *, predict: bool = False, only: tuple[str, ...] = (), **changes: Any) -> Plan:
    study = validate_study({**raw(name, folder), **changes})
    return make_plan(study, PlanOptions(cache=folder / "cache", device="cpu", predict=predict, only=only))


def test_quantization_is_144_runs(folder: Path) -> None:
    plan = planned("quantization", folder)
    assert len(plan.runs) == 144 and not plan.refusals
    assert {run.seed for run in plan.runs} == {42, 123, 456}
    configs = [run.config for run in plan.runs if run.config]
    assert len({config.run_id for config in configs}) == 144
    schemes = Counter((c.quantizer.get("bits"), c.quantizer.get("double")) for c in configs)
    assert schemes == {(None, None): 36, (8, False): 36, (4, False): 36, (4, True): 36}
    small = [c for c in configs if c.adapter["rank"] == 4]
    assert small and all(c.adapter["alpha"] is None and c.adapter["alpha_over_rank"] == 2 for c in small)  # alpha 8


def test_the_matrix_is_198_configurations_of_five_seeds(folder: Path) -> None:
    train = {**raw("vit-peft-matrix", folder)["train"], "epochs": 60}  # of so few images, for the steps that AdaLoRA needs
    plan = planned("vit-peft-matrix", folder, train=train)
    assert len(plan.runs) == 990 and not plan.refusals
    cells = Counter((run.backbone, json.dumps(run.config.task["data"]), run.label) for run in plan.runs if run.config)
    assert len(cells) == 198 and set(cells.values()) == {5}
    assert len({(backbone, data) for backbone, data, _ in cells}) == 9
    of_qa_lora = {r.config.quantizer.get("type") for r in plan.runs if r.config and r.config.adapter["name"] == "pooled"}
    assert of_qa_lora == {None, "int8", "int4"}  # float32 too


def test_the_page_of_plans_replaces_what_is_not_here_and_has_every_configuration(folder: Path) -> None:
    """Of a part of the study: two arms with one rank on one backbone and both data sets, as large as they are published."""
    specification = importlib.util.spec_from_file_location("plan_page", STUDIES.parent / "tools" / "plan_page.py")
    assert specification and specification.loader
    page = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(page)
    study = YAML(typ="safe").load(STUDIES / "quantization.yaml")
    study["matrix"]["backbone"] = study["matrix"]["backbone"][:1]
    study["arms"] = {name: study["arms"][name] for name in ("lora", "int8")}
    for arm in study["arms"].values():
        arm["adapter"]["rank"] = [4]
    study["analysis"]["baseline"] = "lora"  # one rank is no grid

    def options(**more: Any) -> PlanOptions:
        return PlanOptions(**{**more, "cache": folder / "cache"})

    plan, names = page.planned(study, folder / "page", options)
    text = page.section("quantization", plan, names)
    assert "4 configurations x 3 seeds = 12 runs" in text and "### vit_tiny_patch16_224" in text
    assert plan.runs[0].steps == 5 * math.ceil(45_000 / 64)  # a tenth of the 50,000 is for validation
    heads = [line for line in text.splitlines() if line.startswith("| arm")]
    assert len(heads) == 1 and "peak, cifar10" in heads[0] and "hours, cifar100" in heads[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == ["| `lora`", "| `int8`"]
    assert float(rows[0][2]) > 3 * float(rows[1][2]) and all("-" not in row for row in rows)


def test_memory_and_time_are_predicted_of_full_sized_backbones(folder: Path) -> None:
    """deit_small: 22 million parameters, of which 4 bits leave less of the frozen weights than 8, and 8 than 32."""
    study = raw("quantization", folder)
    matrix = {"backbone": study["matrix"]["backbone"][1:], "task": study["matrix"]["task"][:1]}
    plan = planned("quantization", folder, predict=True, matrix=matrix, seeds=[42])
    weights = {run.label: run.estimate.parts_mb["weights"] for run in plan.runs if run.estimate}
    assert len(weights) == 12
    assert all(run.estimate and run.estimate.peak_mb > 0 and run.estimate.step_time_s > 0 for run in plan.runs)
    assert 80 < weights["lora[rank=4]"] < 95
    assert weights["nf4[rank=4,double=true]"] < weights["nf4[rank=4,double=false]"] < weights["int8[rank=4]"] < 30


@pytest.mark.parametrize("name", ["quantization-cpu", "qa-lora"])
def test_the_small_ones_name_the_arms_that_were_asked_for(name: str) -> None:
    study = YAML(typ="safe").load(STUDIES / f"{name}.yaml")
    if name == "quantization-cpu":
        whole = YAML(typ="safe").load(STUDIES / "quantization.yaml")
        assert {name: study["arms"][name].keys() for name in whole["arms"]} == {n: a.keys() for n, a in whole["arms"].items()}
        assert study["arms"].keys() - whole["arms"].keys() == {"probe", "probe-nf4", "after-nf4"}  # quantization alone, and after
        assert study["seeds"] == whole["seeds"]
        assert study["arms"]["lora"]["adapter"]["rank"][0] == 4
        return
    pooled = [arm for arm in study["arms"].values() if arm["adapter"]["name"] == "pooled"]
    quantizers = [arm["quantizer"] for arm in pooled if "quantizer" in arm]
    assert [arm["adapter"]["group_size"] for arm in pooled if "quantizer" not in arm] == [32]  # pooling alone, on float weights
    found = {(q["type"], q.get("schedule", "constant")) for q in quantizers}
    assert found == {("nf4", "constant"), ("int8", "linear"), ("fp4", "cosine"), ("int4", "constant")}
    assert len(study["seeds"]) == 5
