from __future__ import annotations

from typing import Any

from peftlab.analysis.ablation import Step, options, steps
from peftlab.records.record import RunConfig


def config(
    adapter: dict[str, Any],
    quantizer: dict[str, Any] | None = None,
    tuned: dict[str, Any] | None = None,
    allocator: dict[str, Any] | None = None,
    **train: Any,
) -> dict[str, str]:
    return options(
        RunConfig(
            study="s", arm="a", label="a", slug="a", backbone="b", backbone_fingerprint="", task={}, data_fingerprint="",
            adapter={"name": "lora", **adapter}, quantizer=quantizer or {"name": "none"},
            allocator=allocator,
            train={"epochs": 3, "learning_rate": 1e-3, **train}, seed=0, tuned=tuned or {},
        )
    )  # fmt: skip


def told(arms: dict[str, dict[str, str]], baseline: str | None = None) -> list[tuple[str, str, str]]:
    return [(s.factor, s.level, s.reference) for s in steps(arms, baseline)]


def test_a_grid_of_two_factors() -> None:
    arms = {f"r{r}a{a}": config({"rank": r, "alpha": a}) for r in (2, 8) for a in (1, 4)}
    assert told(arms) == [("alpha", "4", "1"), ("alpha", "4", "1"), ("rank", "8", "2"), ("rank", "8", "2")]
    pairs = {(s.arm, s.against) for s in steps(arms, None)}
    assert pairs == {("r2a4", "r2a1"), ("r8a4", "r8a1"), ("r8a1", "r2a1"), ("r8a4", "r2a4")}


def test_the_baseline_is_the_reference_of_its_groups() -> None:
    arms = {f"r{r}": config({"rank": r}) for r in (2, 8, 32)}
    assert told(arms, "r8") == [("rank", "2", "8"), ("rank", "32", "8")]
    assert steps(arms, "r8")[0] == Step("rank", "r2", "2", "r8", "8")


def test_named_arms_count_by_what_they_are() -> None:
    arms = {
        "standard": config({"rank": 8, "targets": "attention"}),
        "wide": config({"rank": 8, "targets": ["q", "v", "up"]}),
        "wide-low": config({"rank": 2, "targets": ["q", "v", "up"]}),
        "other": {**config({"rank": 8, "targets": "attention"}), "adapter": "svd"},
    }
    assert told(arms) == [("rank", "2", "8"), ("targets", "q, v, up", "attention")]


def test_a_tuned_rate_is_no_option_and_a_declared_one_is() -> None:
    tuned = {str(r): config({"rank": 8}, tuned={"learning_rate": r}, learning_rate=r) for r in (1e-3, 3e-3)}
    declared = {str(r): config({"rank": 8}, learning_rate=r) for r in (1e-3, 3e-3)}
    assert told(tuned) == []  # the same treatment twice
    assert told(declared) == [("learning_rate", "0.003", "0.001")]


def test_a_tuned_option_of_the_adapter_is_none_either() -> None:
    tuned = {str(a): config({"rank": 8, "alpha": a}, tuned={"adapter.alpha": a}) for a in (8, 16)}
    declared = {str(a): config({"rank": 8, "alpha": a}) for a in (8, 16)}
    assert told(tuned) == [] and told(declared) == [("alpha", "16", "8")]


def test_a_quantizer_counts_as_one_option() -> None:
    groupwise = {"name": "groupwise", "type": "int4", "group_size": 32, "end": None}
    arms = {
        "lora": config({"rank": 8}),
        "nf4": config({"rank": 8}, {"name": "bnb", "bits": 4, "type": "nf4", "double": False}),
        "double": config({"rank": 8}, {"name": "bnb", "bits": 4, "type": "nf4", "double": True}),
        "int4": config({"rank": 8}, groupwise),
    }
    assert told(arms) == [
        ("quantizer", "bnb, bits 4, nf4", "none"),
        ("quantizer", "bnb, bits 4, double, nf4", "none"),
        ("quantizer", "groupwise, group_size 32, int4", "none"),
    ]
    alike = {name: arms[name] for name in ("nf4", "double")}
    assert told(alike, "nf4") == [("quantizer", "double", "bnb")]


def allocated(rule: str, importance: str, **options: Any) -> dict[str, str]:
    spec = {"name": rule, "importance": {"name": importance}, "budget": {"ranks": 96}, **options}
    return config({"rank": 4}, allocator=spec)


def test_importance_metrics_of_one_rule() -> None:
    arms = {name: allocated("top_k", name) for name in ("magnitude", "fisher", "sensitivity")}
    assert told(arms) == [("allocator", "fisher", "magnitude"), ("allocator", "sensitivity", "magnitude")]
    assert told(arms, "fisher") == [("allocator", "magnitude", "fisher"), ("allocator", "sensitivity", "fisher")]


def test_allocation_rules_with_one_importance_metric_and_against_none() -> None:
    arms = {
        "fixed": config({"rank": 4}),
        "proportional": allocated("proportional", "fisher"),
        "threshold": allocated("threshold", "fisher", fraction=0.5),
    }
    assert [(f, level.split(",")[0], ref) for f, level, ref in told(arms, "fixed")] == [
        ("allocator", "proportional", "none"),
        ("allocator", "threshold", "none"),
    ]
    between = told({name: arms[name] for name in ("proportional", "threshold")})
    assert [(f, level.split(",")[0], ref.split(",")[0]) for f, level, ref in between] == [
        ("allocator", "threshold", "proportional")
    ]


def test_layers_by_block_and_by_kind() -> None:
    arms = {targets: config({"rank": 8, "targets": targets}) for targets in ("q,v", "q,v,blocks:0-5", "q,v,blocks:6-11")}
    assert told(arms) == [("targets", "q,v,blocks:0-5", "q,v"), ("targets", "q,v,blocks:6-11", "q,v")]


def test_thirty_levels_of_one_factor_are_compared_and_not_one_more() -> None:
    arms = {f"r{r}": config({"rank": r}) for r in range(1, 32)}
    assert len(told(dict(list(arms.items())[:30]))) == 29 and told(arms) == []


def test_how_options_are_written() -> None:
    def written(*values: Any) -> set[str]:
        arms = {str(i): config({"rank": 8, "x": value}) for i, value in enumerate(values)}
        return {step.level for step in steps(arms, None)} | {step.reference for step in steps(arms, None)}

    assert written(None, True, False) == {"none", "yes", "no"}
    assert written(0.5, 1e-5, 3) == {"0.5", "1e-05", "3"}
    assert written(["q", 1, 2.0], "q, v") == {"q, 1, 2", "q, v"}


def test_options_that_set_a_quantizer_apart_are_named_where_their_value_says_nothing() -> None:
    def levels(**options: tuple[Any, Any]) -> list[tuple[str, str]]:
        first, second = ({"name": "q", **{k: v[i] for k, v in options.items()}} for i in (0, 1))
        found = steps({"a": config({"rank": 8}, first), "b": config({"rank": 8}, second)}, None)
        assert [step.factor for step in found] == ["quantizer"]
        return [(step.reference, step.level) for step in found]

    assert levels(type=("e4", "m3")) == [("e4", "m3")], "a letter is enough for a value to speak for itself"
    assert levels(bits=(4, 8)) == [("bits 4", "bits 8")]
    assert levels(double=(False, True)) == [("q", "double")]
    assert levels(end=(None, 3)) == [("q", "end 3")]


def test_an_option_that_only_some_have_sets_them_apart() -> None:
    arms = {"a": config({"rank": 8}, {"name": "q", "bits": 4}), "b": config({"rank": 8}, {"name": "q", "bits": 4, "size": 32})}
    assert told(arms) == [("quantizer", "size 32", "q")]


def test_when_a_model_is_quantized_is_a_factor_of_its_own() -> None:
    arms = {how: {**config({"rank": 8}, {"name": "q"}), "quantize": how} for how in ("before", "after")}
    assert told(arms) == [("quantize", "after", "before")]


def test_steps_are_in_the_order_of_their_factors() -> None:
    arms = {"base": config({"rank": 8, "alpha": 1}), "z": config({"rank": 4, "alpha": 1}), "y": config({"rank": 8, "alpha": 2})}
    arms["x"] = config({"rank": 8, "alpha": 1}, learning_rate=3e-3)
    assert [step.factor for step in steps(arms, "base")] == ["alpha", "learning_rate", "rank"]
