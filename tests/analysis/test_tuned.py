"""What is said of a tuning, and of how an arm was run whose folds were each tuned by themselves."""

from __future__ import annotations

from typing import Any

from peftlab.analysis.tuned import arm_names, arm_of, by_fold, chosen_sentences, named_once, not_given


def entry(label: str, fold: int, **more: Any) -> dict[str, Any]:
    about = {"label": label, "backbone": "b", "task": "t", "values": {"learning_rate": 1e-3}, "mean": 0.9, "time_s": 2.0}
    return about | ({"fold": fold} if fold else {}) | more


def test_arms_are_named_by_what_tells_them_apart() -> None:
    assert arm_names([("a", "b", "t", 0), ("c", "b", "t", 0)]) == {("a", "b", "t", 0): "a", ("c", "b", "t", 0): "c"}
    assert [*arm_names([("a", "b", "t", 0), ("a", "b", "t", 1)]).values()] == ["a, fold 0", "a, fold 1"]
    assert [*arm_names([("a", "b", "t", 0), ("a", "x", "t", 2)]).values()] == ["a (b), fold 0", "a (x), fold 2"]
    assert arm_of({"label": "a", "fold": None}) == ("a", "", "", 0), "a record that is damaged"


def test_an_arm_is_named_once_with_the_folds_that_are_meant() -> None:
    every = [(label, "b", "t", fold) for label in ("a", "c") for fold in range(3)]
    assert named_once(every, every) == ["a", "c"] and named_once([], every) == []
    assert named_once([every[0], every[2], every[4]], every) == ["a (folds 0 and 2)", "c (fold 1)"]
    assert named_once([("a", "b", "t", 0)], [("a", "b", "t", 0), ("a", "x", "t", 0)]) == ["a (b)"]


def test_what_holds_of_every_fold_is_said_once() -> None:
    chosen = [entry("a", fold, lacks=["adapter.rank"], at_edge=["learning_rate"] if fold != 1 else []) for fold in range(3)]
    said = not_given({"seeds": [100], "trials": [], "chosen": chosen})
    assert said == [
        "a: has no adapter.rank; its trials were over learning_rate.",
        "a (folds 0 and 2): the best learning_rate is at the edge of what was searched; a better one may lie outside.",
    ]
    trial = {"label": "a", "backbone": "b", "task": "t", "values": {"learning_rate": 1e-3}, "seed": 100, "fold": 2, "value": 0.5}
    assert "a (fold 2): nothing was chosen." in not_given({"seeds": [100], "trials": [trial], "chosen": chosen[:2]})


def test_time_is_that_of_all_folds() -> None:
    chosen = [entry(label, fold, time_s=time_s) for label, time_s in (("a", 1.0), ("c", 3.0)) for fold in range(2)]
    (said,) = not_given({"seeds": [100], "trials": [], "chosen": chosen})
    assert said.endswith("a 2 s, c 6 s of training and validation.")
    assert [text.partition(":")[0] for text in chosen_sentences({"chosen": chosen})] == [
        "tuning, a, fold 0", "tuning, a, fold 1", "tuning, c, fold 0", "tuning, c, fold 1",
    ]  # fmt: skip


def test_how_an_arm_was_run_names_the_values_of_every_fold() -> None:
    tuned = {"learning_rate": 0, "adapter.rank": 0}
    configs = [
        {"train": {"learning_rate": rate, "epochs": 1}, "adapter": {"name": "lora", "rank": 4}, "tuned": tuned}
        for rate in (1e-3, 4e-3, 1e-3)
    ]
    assert by_fold(configs[:1]) == configs[0] and by_fold([]) == {}
    assert by_fold(configs) != by_fold([configs[0], *configs[1:2], *configs[1:2]]), "which fold has which is part of it"
    found = by_fold(configs)
    assert found["train"] == {"learning_rate": "0.001, 0.004, 0.001 by fold", "epochs": 1}
    assert found["adapter"] == {"name": "lora", "rank": 4}
    assert by_fold([{**config, "tuned": {}} for config in configs])["train"] == configs[0]["train"]
