from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from peftlab.records.record import RunConfig, RunResults
from peftlab.report.model_card import model_card
from tests.report.fixtures import write_results


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunResults]:
    run: Path = sorted((write_results(tmp_path_factory.mktemp("results")) / "runs" / "lora.rank-8").iterdir())[0]
    config = RunConfig.model_validate_json((run / "config.json").read_bytes())
    return config, RunResults.model_validate_json((run / "results.json").read_bytes())


def front(card: str) -> dict:
    return YAML(typ="safe").load(card.split("---\n")[1])


def test_front_matter_is_what_the_hub_reads(record: tuple[RunConfig, RunResults]) -> None:
    config, results = record
    matter = front(model_card(config, results))
    assert matter["library_name"] == "peft" and matter["pipeline_tag"] == "image-classification" and "lora" in matter["tags"]
    metrics = {m["type"]: m["value"] for m in matter["model-index"][0]["results"][0]["metrics"]}
    assert metrics["accuracy"] == pytest.approx(results.metrics["test"]["accuracy"], abs=1e-6)
    assert "base_model" not in matter  # `bundled:vit-nano` is no id of the hub
    hub = config.model_copy(update={"backbone": "google/vit-base-patch16-224"})
    assert front(model_card(hub, results))["base_model"] == "google/vit-base-patch16-224"


def test_figures_of_another_model_are_not_given_to_the_hub(record: tuple[RunConfig, RunResults]) -> None:
    """Rounded to a grid again, or with 8-bit inputs, the files do not compute what the run evaluated."""
    matter = front(model_card(*record, as_run=False))
    assert "model-index" not in matter and matter["library_name"] == "peft"


def test_the_library_and_the_fold_are_named(record: tuple[RunConfig, RunResults]) -> None:
    config, results = record
    assert front(model_card(config, results, library="peftlab"))["library_name"] == "peftlab"
    assert ", fold" not in model_card(config, results)
    for fold in (0, 1):
        of_folds = config.model_copy(update={"task": {**config.task, "folds": 2}, "fold": fold})
        assert f"seed {config.seed}, fold {fold}." in model_card(of_folds, results)


def test_the_numbers_are_those_of_the_record(record: tuple[RunConfig, RunResults]) -> None:
    config, results = record
    card = model_card(config, results)
    assert "13,258 of 460,000" in card and config.run_id in card and "seed " + str(config.seed) in card
    assert f"{100 * (results.metrics['test']['accuracy'] or 0):.2f} %" in card


def test_without_results_it_says_so(record: tuple[RunConfig, RunResults]) -> None:
    assert "not finished" in model_card(record[0], None)


def test_divergence_and_flags_are_said(record: tuple[RunConfig, RunResults]) -> None:
    said = {"flags": ["fell back to the CPU"], "data_warnings": ["3 of 9 test images are also in train"], "notes": ["rested"]}
    broken = record[1].model_copy(update={"status": "diverged", "metrics": {}, **said})
    card = model_card(record[0], broken)
    assert "diverged" in card
    assert "* fell back to the CPU\n* 3 of 9 test images are also in train\n* rested\n" in card


def test_names_cannot_break_out(record: tuple[RunConfig, RunResults]) -> None:
    evil = record[0].model_copy(update={"label": "<script>x</script>\n# Title", "study": "a`b\n---"})
    card = model_card(evil, record[1])
    assert front(card)["library_name"] == "peft"
    body = card.split("\n---\n", 1)[1]
    assert "<script>" not in body and "\n# Title" not in card
