"""Arms: adapters, allocators and quantizers with wrong names, options, types and ranges, and what makes no sense together."""

from __future__ import annotations

from collections.abc import Callable

from tests.bad_input.case import Case, arm, study

LORA = "  lora: {adapter: {name: lora, rank: [2, 8]}}"


def of_form(form: str) -> Callable[[str, str], Case]:
    """Arms that differ in what stands for OPTIONS."""
    return lambda name, options: arm(name, form.replace("OPTIONS", options))


lora = of_form("{adapter: {name: lora, OPTIONS}}")
svd = of_form("{adapter: svd, allocator: OPTIONS}")
placed = of_form("{adapter: lora, allocator: OPTIONS}")
stored = of_form("{adapter: lora, quantizer: OPTIONS}")


def two(name: str, first: str, second: str) -> Case:
    return study(name, (LORA, f"  one: {first}\n  two: {second}"))


CASES = [
    arm("an unknown adapter", "{adapter: loar}"),
    arm("a method of a paper for an adapter", "{adapter: qlora}"),
    arm("an adapter that is a number", "{adapter: 8}"),
    arm("an adapter that is true", "{adapter: true}"),
    arm("an adapter without name", "{adapter: {rank: 8}}"),
    arm("an adapter whose name is a number", "{adapter: {name: 1}}"),
    arm("an adapter called type", "{adapter: {type: lora, rank: 8}}"),
    arm("an empty adapter", '{adapter: ""}'),
    arm("options for what has none", "{adapter: {name: full, rank: 8}}"),
    lora("an option misspelt", "rnak: 8"),
    lora("an option of the library", "lora_alpha: 16"),
    lora("a rank as text", 'rank: "8"'),
    lora("a rank as a word", "rank: eight"),
    lora("a rank of zero", "rank: 0"),
    lora("a negative rank", "rank: -4"),
    lora("a rank that is a fraction", "rank: 0.5"),
    lora("a rank that is null", "rank: null"),
    lora("a rank above the width", "rank: 4096"),
    lora("a rank beyond all bounds", "rank: 1000000000000"),
    lora("an alpha of zero", "alpha: 0"),
    lora("dropout of one", "dropout: 1.0"),
    lora("dropout in percent", "dropout: 10%"),
    lora("targets of an unknown role", "targets: attn"),
    lora("targets of modules that are not there", "targets: [[q_proj, v_prj]]"),
    lora("targets as a number", "targets: 3"),
    lora("an unknown initialisation", "init: gausian"),
    lora("dora as a word", "dora: yes"),
    lora("an empty list of targets", "targets: [[]]"),
    arm("bottleneck of width zero", "{adapter: {name: bottleneck, width: 0}}"),
    arm("bottleneck of an unknown activation", "{adapter: {name: bottleneck, activation: swish}}"),
    arm("bottleneck of an unknown placement", "{adapter: {name: bottleneck, placement: pfeifer}}"),
    arm("adaptformer with a negative scale", "{adapter: {name: adaptformer, scale: -1.0}}"),
    arm("fact of an unknown form", "{adapter: {name: fact, form: cp}}"),
    arm("visual prompts of none", "{adapter: {name: vpt, prompts: 0}}"),
    arm("visual prompts of an unknown depth", "{adapter: {name: vpt, depth: medium}}"),
    arm("ssf with an unknown start", "{adapter: {name: ssf, init: zero}}"),
    arm("svd with a rank as text", "{adapter: {name: svd, rank: many}}"),
    arm("pooled without a quantizer", "{adapter: pooled}"),
    arm("pooled with a group size that does not divide", "{adapter: {name: pooled, group_size: 7}, quantizer: groupwise}"),
    arm("pooled with another group size", "{adapter: {name: pooled, group_size: 16}, quantizer: groupwise}"),
    arm("peft without type", "{adapter: {name: peft}}"),
    arm("peft of an unknown type", "{adapter: {name: peft, type: VEERA}}"),
    arm("peft with an unknown option", "{adapter: {name: peft, type: VERA, config_options: {rr: 8}}}"),
    arm(
        "peft with an option of a wrong type",
        "{adapter: {name: peft, type: VERA, config_options: {r: many}}}",
        words=("arms.mine.adapter", "VERA does not work on this backbone with these options", "PEFT's documentation"),
    ),
    arm("peft with options that are a list", "{adapter: {name: peft, type: VERA, config_options: [[r, 8]]}}"),
    svd("an unknown allocator", "adalra"),
    svd("an allocator that is a number", "3"),
    svd("an allocator without name", "{budget: {ranks: 8}}"),
    svd("an allocator's option misspelt", "{name: adalora, budjet: {ranks: 64}}"),
    svd("a budget as a word", "{name: adalora, budget: lots}"),
    svd("a budget as a number", "{name: adalora, budget: 64}"),
    svd("a budget of an unknown unit", "{name: adalora, budget: {rank: 64}}"),
    svd("a budget of two units", "{name: adalora, budget: {ranks: 64, parameters: 1000}}"),
    svd("a budget of nothing", "{name: adalora, budget: {ranks: 0}}"),
    svd("a budget that is negative", "{name: adalora, budget: {ranks: -8}}"),
    svd("a budget beyond what there is", "{name: adalora, budget: {ranks: 1000000}}"),
    svd("a budget below one a module", "{name: adalora, budget: {parameters: 10}}"),
    svd("adalora that never acts", "{name: adalora, initial_steps: 0.9, final_steps: 0.9}"),
    svd("adalora with an interval of zero", "{name: adalora, every: 0}"),
    svd("adalora with a beta of two", "{name: adalora, beta1: 2.0}"),
    svd("adalora less often than the run is long", "{name: adalora, every: 100000}"),
    svd("a match of an arm that is not there", "{name: adalora, budget: match lorra}"),
    svd("a match of itself", "{name: adalora, budget: match mine}"),
    svd("a match of nothing", "{name: adalora, budget: match}"),
    svd("a match of an arm without adapters", "{name: adalora, budget: match full}"),
    study(
        "a match of a grid",
        (LORA, LORA + "\n  mine: {adapter: svd, allocator: {name: adalora, budget: match lora}}"),
    ),
    study(
        "a match of a value not in the grid",
        (LORA, LORA + "\n  mine: {adapter: svd, allocator: {name: adalora, budget: 'match lora[rank=16]'}}"),
    ),
    two(
        "matches in a circle",
        "{adapter: svd, allocator: {name: adalora, budget: match two}}",
        "{adapter: svd, allocator: {name: adalora, budget: match one}}",
    ),
    arm("adalora on lora", "{adapter: lora, allocator: adalora}"),
    arm("an allocator for what has no ranks", "{adapter: bitfit, allocator: uniform}"),
    arm("an allocator for full fine-tuning", "{adapter: full, allocator: adalora}"),
    arm("dylora on svd", "{adapter: svd, allocator: dylora}"),
    placed("pattern without ranks", "pattern"),
    placed("pattern of modules that are not there", "{name: pattern, ranks: {blocks.99.attn.q: 8}}"),
    placed("pattern with a rank as text", "{name: pattern, ranks: {blocks.0.attn.q: eight}}"),
    placed("an unknown importance", "{name: empirical, importance: fischer}"),
    placed("an importance with an unknown option", "{name: empirical, importance: {name: sensitivity, beta3: 0.5}}"),
    placed("min_rank above max_rank", "{name: linear-growth, min_rank: 8, max_rank: 2}"),
    placed("a negative weight", "{name: attention-heavy, weight: -1.0}"),
    placed("no batches", "{name: eva, batches: 0}"),
    placed("selective that keeps nothing", "{name: selective, keep: []}"),
    placed("an unknown level", "{name: alphalora, level: layers}"),
    stored("an unknown quantizer", "gptq"),
    stored("bnb of three bits", "{name: bnb, bits: 3}"),
    stored("bnb of bits as text", '{name: bnb, bits: "4"}'),
    stored("bnb of 8 bits with a type", "{name: bnb, bits: 8, type: nf4}"),
    stored("bnb of an unknown type", "{name: bnb, type: nf3}"),
    stored("groupwise of groups that do not divide", "{name: groupwise, group_size: 7}"),
    stored("groupwise of groups of zero", "{name: groupwise, group_size: 0}"),
    stored("groupwise of an unknown type", "{name: groupwise, type: int5}"),
    stored("groupwise with an unknown schedule", "{name: groupwise, schedule: step}"),
    stored("options for no quantizer", "{name: none, bits: 4}"),
    stored("a quantizer that is a number", "4"),
    arm("full fine-tuning of frozen bits", "{adapter: full, quantizer: groupwise}"),
    arm("quantize at an unknown time", "{adapter: lora, quantizer: groupwise, quantize: during}"),
    arm("quantize after, with nothing to do", "{adapter: lora, quantize: after}"),
    arm("quantize after what cannot be merged", "{adapter: bottleneck, quantizer: groupwise, quantize: after}"),
]
