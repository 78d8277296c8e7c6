"""The groupwise quantizer: options, memory, schedule; what every quantizer promises is in tests/contracts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from peftlab import registry
from peftlab.errors import OptionError
from peftlab.nn.groups import BOOKS
from peftlab.nn.quantized import quantized_layers
from peftlab.quantizers.groupwise import Groupwise
from peftlab.study.schema import EarlyStopping, Train
from tests.adapters.models import backbone, on_meta


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"type": "int5"}, "quantizer.type"),
        ({"group_size": 0}, "quantizer.group_size"),
        ({"schedule": "linear", "end": 0.9}, "quantizer.end"),
        ({"schedule": "linear", "start": 0.5, "end": 0.5}, "quantizer.end"),
        ({"schedule": "cosine", "start": -0.1}, "quantizer.end"),
        ({"end": 0.5}, "quantizer.end"),
        ({"schedule": "step"}, "quantizer.schedule"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError) as caught:
        registry.create("quantizer", {"name": "groupwise", **options})
    assert caught.value.where == where and caught.value.remedy


@pytest.mark.parametrize("load", [backbone, on_meta])
def test_a_group_that_does_not_divide_is_refused_with_the_layer_and_divisors(load: Any) -> None:
    """Without weights too: when a run is planned."""
    with pytest.raises(OptionError, match=r"blocks\.0\.attn\.qkv.*group size 24 does not divide the 32 inputs") as caught:
        Groupwise(group_size=24).convert(load("timm"))
    assert "16, 32" in caught.value.remedy


@pytest.mark.parametrize(("kind", "bits"), [("int2", 4), ("int3", 5), ("int4", 6), ("int8", 10), ("nf4", 5), ("fp4", 5)])
def test_bits_per_parameter(kind: str, bits: int) -> None:
    assert Groupwise(type=kind, group_size=32).bits_per_parameter(768, 768) == bits  # pyright: ignore


def test_memory_falls_to_what_the_formula_says() -> None:
    model = backbone("timm")
    plain = sum(p.nbytes for p in model.module.parameters())
    weights = {s.name: s.d_in * s.d_out for s in model.roles.sites if s.parent is None and s.block is not None}
    quantizer = Groupwise(type="int4", group_size=32)
    quantizer.convert(model)
    left = sum(t.nbytes for t in (*model.module.parameters(), *model.module.buffers()))
    stored = sum(
        quantizer.stored_bytes(layer.out_features, layer.in_features) for layer in quantized_layers(model.module).values()
    )
    assert left == plain - 4 * sum(weights.values()) + stored
    assert stored <= 0.20 * 4 * sum(weights.values())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("total", [1, 2, 7, 101])
def test_rho_rises_from_its_start_to_one(schedule: Any, total: int) -> None:
    ramp = Groupwise(schedule=schedule, start=0.2, end=0.6).ramp(total)
    values = [ramp(step) for step in range(total)]
    assert values == sorted(values) and values[-1] == 1.0
    assert all(0 <= v <= 1 for v in values)
    for step, value in enumerate(values):
        x = min(1.0, max(0.0, (step - 0.2 * (total - 1)) / (0.4 * (total - 1)))) if total > 1 else 1.0
        assert value == pytest.approx(x if schedule == "linear" else (1 - math.cos(math.pi * x)) / 2)


def test_a_schedule_ends_at_the_step_that_is_its_share_of_the_run() -> None:
    """0.55 * 100 > 55: float weights would stay a step longer, at a rho just below one."""
    ramp = Groupwise(schedule="linear", start=0.07, end=0.55).ramp(101)
    assert (ramp.first, ramp.last, ramp(55)) == (7, 55, 1.0) and ramp(7) == 0.0 < ramp(8) and ramp(54) < 1.0


def test_a_constant_schedule_is_at_one_from_the_first_step() -> None:
    assert [Groupwise().ramp(5)(step) for step in range(5)] == [1.0] * 5


BEST = Train(select="best")
STOPPING = Train(select="best", early_stopping=EarlyStopping(patience=1))


@pytest.mark.parametrize(
    ("options", "train", "quantize", "where"),
    [
        ({"schedule": "linear", "end": 0.8}, BEST, "before", "train.select"),
        ({"schedule": "cosine"}, STOPPING, "before", "train.select"),
        ({"schedule": "linear"}, Train(), "after", "quantizer.schedule"),
        ({"scale_updates": True}, Train(), "after", "quantizer.scale_updates"),
    ],
)
def test_what_could_end_before_the_schedule_does_is_refused(options: Any, train: Train, quantize: Any, where: str) -> None:
    with pytest.raises(OptionError) as caught:
        Groupwise(**options).check(train, quantize)
    assert caught.value.where == where and caught.value.remedy


@pytest.mark.parametrize(
    ("options", "train", "quantize"),
    [({}, STOPPING, "before"), ({}, BEST, "after"), ({"schedule": "linear"}, Train(), "before")],
)
def test_what_is_at_rho_one_whenever_it_ends_is_not_refused(options: Any, train: Train, quantize: Any) -> None:
    Groupwise(**options).check(train, quantize)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_plan_counts_the_float_weights_of_a_schedule(schedule: Any) -> None:
    quantizer = Groupwise(schedule=schedule, group_size=8)
    planned, real = on_meta("timm"), backbone("timm")
    quantizer.convert(planned), quantizer.convert(real)
    held = [sum(b.nbytes for b in m.module.buffers()) for m in (planned, real)]
    assert held[0] == held[1]


def test_it_runs_on_what_it_is_given_without_a_seed() -> None:
    state = torch.random.get_rng_state()
    Groupwise().convert(backbone("vit"))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("kind", "steps"), [("int2", 3), ("int3", 7), ("int4", 15), ("int8", 255)])
def test_the_error_is_half_a_step_of_the_groups_grid_at_most(kind: Any, steps: int) -> None:
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    bound = Groupwise(type=kind, group_size=4).error_bound(weight)
    for o in range(5):
        for g in range(3):
            group = weight[o, 4 * g : 4 * g + 4]
            wanted = float(group.max() - group.min()) / steps / 2 + 1e-6 * float(weight.abs().max())
            assert bound[o, 4 * g : 4 * g + 4].tolist() == pytest.approx([wanted] * 4, rel=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_error_is_half_the_widest_gap_of_a_code_book_at_most(kind: Any) -> None:
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    bound = Groupwise(type=kind, group_size=4).error_bound(weight)
    values = sorted(BOOKS[kind])
    gap = max(b - a for a, b in itertools.pairwise(values))
    wanted = weight.unflatten(1, (3, 4)).abs().amax(-1) * gap / 2 + 1e-6 * weight.abs().max()
    torch.testing.assert_close(bound, wanted.repeat_interleave(4, dim=1), rtol=1e-4, atol=1e-7)
