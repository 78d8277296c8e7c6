"""What a look at the base asks gradients of, and what is kept of it when a run goes on."""

from __future__ import annotations

import json
import time

import pytest

from peftlab.allocators._probe import Measured, ProbeReport, backward, note, trainable_weights
from peftlab.errors import RecordError
from peftlab.nn.roles import Site
from peftlab.registry import create
from tests.adapters import models
from tests.allocators.probing import attached, probe

SPEC = {"name": "gora", "batches": 2}


def test_a_run_goes_on_with_what_the_first_look_took() -> None:
    first, again = (attached("vit", SPEC)[0].hooks[0] for _ in range(2))
    kept = json.loads(json.dumps(first.state()))
    kept["probe"]["seconds"] = 1234.5
    again.load_state({})
    assert again.report()["ranks.json"]["probe"]["seconds"] != 1234.5
    again.load_state(kept)
    assert again.report()["ranks.json"]["probe"] == kept["probe"]
    assert again.report()["ranks.json"]["ranks"] == first.report()["ranks.json"]["ranks"]


def test_what_a_look_took_is_told_in_seconds_and_millions_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, _ = attached("vit", SPEC)
    measured = Measured(importance={}, batches=2, seconds=1.23456789, gradient_bytes=1_234_567_890)
    report = ProbeReport(create("allocator", SPEC), adapted, None, measured).report()["ranks.json"]
    assert report["probe"] == {"batches": 2, "seconds": 1.2346, "gradient_mb": 1234.568}
    assert Measured(importance={}, batches=2, seconds=0.0).gradient_bytes == 0
    times = iter([10.0, 12.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    base, begun = models.backbone("vit"), []
    with trainable_weights(probe(base, "vit"), create("adapter", "lora").sites(base)):
        assert backward(probe(base, "vit"), 3, lambda: begun.append(1)) == (3, 2.5)
    assert len(begun) == 3


def test_a_look_that_gives_other_ranks_than_the_first_is_refused() -> None:
    (hook,) = attached("vit", SPEC)[0].hooks
    name, rank = next(iter(hook.report()["ranks.json"]["ranks"].items()))
    kept = hook.state()
    with pytest.raises(RecordError, match="other ranks now than when the run began"):
        hook.load_state({**kept, "ranks": {**kept["ranks"], name: rank + 1}})


def test_gradients_are_asked_of_the_adapted_weights_alone() -> None:
    backbone = models.backbone("vit")
    sites = create("adapter", "lora").sites(backbone)
    before = {name: parameter.requires_grad for name, parameter in backbone.module.named_parameters()}
    with trainable_weights(probe(backbone, "vit"), sites) as weights:
        asked = {name for name, parameter in backbone.module.named_parameters() if parameter.requires_grad}
        assert asked == {f"{site.name}.weight" for site in sites} == {f"{name}.weight" for name in weights}
    assert {name: parameter.requires_grad for name, parameter in backbone.module.named_parameters()} == before
    assert sum(before.values()) > len(sites), "there was something to be left out"


def test_a_plan_tells_the_memory_of_the_gradients_in_millions_of_bytes() -> None:
    sites = [Site(name=name, role="q", block=0, d_in=200_000, d_out=150_000) for name in "ab"]
    (line,) = note("gora", sites, 8, copies=3)
    decides = "planned with equal ranks; a probe of 8 batches decides"
    assert line == f"gora: {decides}, which takes 720000.0 MB for gradients before training starts"
    assert note("eva", sites, 8, copies=0) == (f"eva: {decides}",)
