"""Static schedules: their formulas by hand, equal budgets, what they refuse, and the ranks that PEFT then trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peftlab import registry
from peftlab.adapters._peft import site_of_layer
from peftlab.errors import OptionError
from peftlab.nn.roles import Site
from peftlab.training.assemble import Ingredients
from tests.contracts.tiny import make


def sites(blocks: int, roles: tuple[str, ...] = ("q", "v")) -> list[Site]:
    sizes = {"up": (32, 64), "down": (64, 32)}
    return [
        Site(name=f"{b}.{r}", role=r, block=b, d_in=sizes.get(r, (32, 32))[0], d_out=sizes.get(r, (32, 32))[1])
        for b in range(blocks)
        for r in roles
    ]


def by_block(ranks: dict[str, int]) -> list[int]:
    return [ranks[f"{b}.q"] for b in range(len(ranks) // 2)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("linear-decay", [16, 12, 8, 4]), ("linear-growth", [4, 8, 12, 16])],  # 80 over 2 modules a block at 4 : 3 : 2 : 1
)
def test_linear_schedules_by_hand(name: str, expected: list[int]) -> None:
    ranks = registry.create("allocator", name).initial(sites(4), 10)
    assert by_block(ranks) == expected
    assert all(ranks[f"{b}.q"] == ranks[f"{b}.v"] for b in range(4))


def test_schedules_count_the_adapted_blocks_only() -> None:
    late = [s for s in sites(4) if s.block in (2, 3)]
    assert registry.create("allocator", "linear-growth").initial(late, 3) == {"2.q": 2, "2.v": 2, "3.q": 4, "3.v": 4}


@pytest.mark.parametrize(("name", "attention", "other"), [("attention-heavy", 12, 6), ("feed-forward-heavy", 6, 12)])
def test_heavy_schedules_by_hand(name: str, attention: int, other: int) -> None:
    ranks = registry.create("allocator", {"name": name, "budget": {"ranks": 36}}).initial(sites(2, ("q", "up")), 1)
    assert ranks == {"0.q": attention, "1.q": attention, "0.up": other, "1.up": other}


@pytest.mark.parametrize("name", ["attention-heavy", "feed-forward-heavy"])
def test_a_heavy_schedule_over_one_kind_of_layer_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="would be uniform"):
        registry.create("allocator", name).initial(sites(2), 4)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("attention", {"0.q", "1.q", "2.q"}),
        ("feed-forward", {"0.up", "1.up", "2.up"}),
        ("blocks:1-2", {"1.q", "1.up", "2.q", "2.up"}),
        ("attention,blocks:0,blocks:2", {"0.q", "2.q"}),
    ],
)
def test_selective_leaves_the_rest_out(keep: str, kept: set[str]) -> None:
    ranks = registry.create("allocator", {"name": "selective", "keep": keep}).initial(sites(3, ("q", "up")), 5)
    assert ranks == {s.name: 5 if s.name in kept else 0 for s in sites(3, ("q", "up"))}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "selective", "keep": "atention"}, "attention"),
        ({"name": "linear-decay", "min_rank": 4, "max_rank": 3}, "max_rank 3 is below min_rank 4"),
        ({"name": "linear-decay", "min_rank": -1}, "at least 0"),
        ({"name": "linear-decay", "budget": {"rank": 3}}, "ranks"),
        ({"name": "linear-decay", "budget": "lora"}, "no budget"),
        ({"name": "attention-heavy", "weight": 0.0}, "positive"),
    ],
)
def test_bad_options_are_errors_at_construction(spec, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        registry.create("allocator", spec)


@pytest.mark.parametrize("options", [{"min_rank": 4, "max_rank": 3}, {"min_rank": -1}, {"budget": {"rank": 3}}], ids=str)
@pytest.mark.parametrize(
    "name", ["linear-decay", "linear-growth", "attention-heavy", "feed-forward-heavy", "selective", "alphalora", "empirical"]
)
def test_what_static_schedules_share_each_of_them_checks(name: str, options) -> None:
    with pytest.raises(OptionError):
        registry.create("allocator", {"name": name, **options})


@pytest.mark.parametrize("keep", ["feed-forward", "blocks:7-9"])
def test_selecting_nothing_is_an_error(keep: str) -> None:
    with pytest.raises(OptionError):
        registry.create("allocator", {"name": "selective", "keep": keep}).initial(sites(2), 4)


@pytest.mark.parametrize("allocator", ["linear-decay", "attention-heavy", {"name": "selective", "keep": "attention,blocks:1"}])
def test_ranks_are_what_peft_trains_and_the_scale_stays(allocator, tmp_path: Path) -> None:
    parts = Ingredients.of(
        backbone=str(make("vit", tmp_path)),
        task={"kind": "image-classification", "data": "digits"},
        adapter={"name": "lora", "rank": 6, "targets": "all-linear"},
        allocator=allocator if isinstance(allocator, dict) else {"name": allocator},
        quantizer={"name": "none"},
    )
    adapted = parts.attach(parts.load_backbone(10, 0), 0)
    layers = site_of_layer(adapted)
    real = {n: m.lora_A["default"].weight.shape[0] for n, m in layers.items()}  # pyright: ignore
    assert real == {n: r for n, r in adapted.ranks.items() if r}
    assert {float(m.scaling["default"]) for m in layers.values()} == {2.0}  # pyright: ignore
    assert len(set(adapted.ranks.values())) > 1
    (hook,) = adapted.hooks
    content = hook.report()["ranks.json"]
    backbone = parts.load_backbone(10, 0, device="meta")
    assert content["ranks"] == adapted.ranks
    assert content["budget"] == {"unit": "ranks", "amount": sum(adapted.ranks.values()), "remainder": 0}
    trained = sum(p.numel() for n, p in adapted.trainable().items() if not adapted.is_head(n))
    assert (
        content["spent"]["parameters"] == trained == parts.adapter.count(backbone, parts.adapter.sites(backbone), adapted.ranks)
    )
    assert torch.isfinite(adapted.backbone.outputs(adapted.module, {"pixel_values": torch.zeros(1, 3, 32, 32)})).all()
