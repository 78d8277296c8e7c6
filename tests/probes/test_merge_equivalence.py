"""The merge-equivalence probe: differences against naive ones, a model left as it was, and what is left out, with its reason."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab.errors import OptionError
from peftlab.probes import merge_equivalence
from peftlab.probes.contract import probes_of
from peftlab.probes.merge_equivalence import FILE, MergeEquivalence
from peftlab.training.loop import Trainer
from tests.probes.conftest import watch
from tests.training.conftest import Lab

GROUPS = {"name": "groupwise", "type": "int4", "group_size": 8}


@pytest.mark.parametrize(
    ("adapter", "quantizer"),
    [
        ({"name": "lora", "targets": "all-linear"}, "none"),
        ({"name": "lora", "dora": True}, "none"),
        ({"name": "svd", "rank": 4}, "none"),
        ({"name": "pooled", "rank": 2}, GROUPS),
    ],
    ids=["lora", "dora", "svd", "qa-lora"],
)
def test_merged_gives_what_was_trained_and_that_stays(lab: Lab, tmp_path: Path, adapter: Any, quantizer: Any) -> None:
    trainer = lab.trainer(tmp_path, adapter, quantizer=quantizer)
    hook = watch(trainer, MergeEquivalence(batches=2))
    trainer.fit()
    before = copy.deepcopy(trainer.adapted.module.state_dict())
    content = hook.report()[FILE]
    json.dumps(content, allow_nan=False)
    after = trainer.adapted.module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert (content["split"], content["examples"], len(content["batches"])) == ("validation", 16, 2)
    assert content["within"] and 0 < content["relative"] <= content["tolerance"] == trainer.adapted.adapter.merge_tolerance
    assert content["max_difference"] == max(batch["max_difference"] for batch in content["batches"])
    assert [timed["rows"] for timed in content["latency"]] == [1, 8]
    for timed in content["latency"]:
        assert timed["adapter_ms"] > 0 and timed["merged_ms"] > 0 and timed["repeats"] >= merge_equivalence.FEWEST


def test_a_merge_that_is_wrong_is_seen_and_its_size_is_right(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = lab.trainer(tmp_path, "lora")
    hook = watch(trainer, MergeEquivalence(batches=1))
    trainer.fit()
    kind = type(trainer.adapted.adapter)
    right = kind.merge

    def shifted(self: Any, adapted: Any) -> nn.Module:
        merged = right(self, adapted)
        with torch.no_grad():
            merged.get_submodule(adapted.backbone.head).bias[0] += 0.25  # pyright: ignore
        return merged

    monkeypatch.setattr(kind, "merge", shifted)
    content = hook.report()[FILE]
    assert content["max_difference"] == pytest.approx(0.25, abs=1e-4) and not content["within"]
    assert hook.probe.tolerance is None
    loose = MergeEquivalence(batches=1, tolerance=10.0).hook(trainer.adapted, hook.view)
    assert loose is not None and loose.report()[FILE]["within"]


@pytest.mark.parametrize("where", [0, 1, 2], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_what_is_not_finite_in_any_batch_is_within_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, where: int
) -> None:
    """Wherever that batch stands: a largest value of several must not lose it."""
    trainer = lab.trainer(tmp_path, "lora")
    hook = watch(trainer, MergeEquivalence(batches=3))
    trainer.fit()
    right, called = hook._outputs, itertools.count()

    def outputs(module: nn.Module, inputs: Any) -> torch.Tensor:
        found = right(module, inputs)
        return found.fill_(value) if next(called) == 2 * where + 1 else found  # trained and merged in turn

    monkeypatch.setattr(hook, "_outputs", outputs)
    content = hook.report()[FILE]
    json.dumps(content, allow_nan=False)
    assert (content["within"], content["relative"], content["max_difference"], content["not_finite"]) == (False, None, None, 1)
    assert [batch["max_difference"] is None for batch in content["batches"]] == [number == where for number in range(3)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_of_causal_models(text_trainer: Callable[[str, Any], Trainer], kind: str) -> None:
    trainer = text_trainer(kind, {"name": "lora", "targets": "all-linear"})
    hook = watch(trainer, MergeEquivalence(batches=1))
    trainer.fit()
    assert hook.report()[FILE]["within"]


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ({"name": "vpt", "prompts": 2}, "cannot be merged"),
        ({"name": "bottleneck", "width": 4}, "cannot be merged"),
        ("full", "nothing was added"),
        ("linear-probe", "nothing was added"),
    ],
    ids=str,
)
def test_what_cannot_merge_or_need_not_says_so(lab: Lab, tmp_path: Path, adapter: Any, reason: str) -> None:
    hook = watch(lab.trainer(tmp_path, adapter), MergeEquivalence())
    assert reason in hook.report()[FILE]["left_out"]


def test_a_copy_that_does_not_fit_is_not_made(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_equivalence, "memory_mb", lambda device: (1000.0, 0.4))
    found = watch(lab.trainer(tmp_path, "lora"), MergeEquivalence()).report()[FILE]["left_out"]
    assert "0.5 of the free 0 MB" in found


@pytest.mark.parametrize("options", [{"batches": -1}, {"tolerance": 0.0}, {"memory": 0.0}, {"memory": 1.5}], ids=str)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        probes_of({"merge_equivalence": options})
    assert caught.value.where == f"probes.merge_equivalence.{next(iter(options))}"
