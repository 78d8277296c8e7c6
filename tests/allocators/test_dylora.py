"""DyLoRA: what a step trains, against a naive forward pass; and what the paper promises of smaller ranks."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.low_rank import LowRank
from peftlab.nn.roles import Site
from peftlab.study.schema import Train
from tests.contracts.tiny import CLASSES, make

RANK = 6


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = make("vit", tmp_path_factory.mktemp("vit"))
    return source_of(str(folder)).load(str(folder), outputs=CLASSES, seed=0)


def adapt(backbone: Backbone, adapter: Any = None, **changes: Any) -> tuple[Adapted, Any, dict[str, LowRank]]:
    """A DyLoRA model, its hook and its factors."""
    allocator = registry.create("allocator", {"name": "dylora", **changes})
    lora = registry.create("adapter", {"name": "lora", "rank": RANK, "targets": ["q", "v"], **(adapter or {})})
    sites = lora.sites(backbone)
    adapted = lora.attach(copy.deepcopy(backbone), seed=1, ranks=allocator.initial(sites, RANK))
    adapted.seed = 1
    return adapted, allocator.hook(adapted), lora.low_rank(adapted)


def images(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(t)
    return torch.randn(16, 3, 32, 32, generator=random), torch.randint(0, CLASSES, (16,), generator=random)


def loss(adapted: Adapted, t: int) -> torch.Tensor:
    inputs, labels = images(t)
    return nn.functional.cross_entropy(adapted.module(inputs).logits, labels)  # pyright: ignore


def fill(layers: dict[str, LowRank]) -> None:
    """B other than zero."""
    random = torch.Generator().manual_seed(5)
    for layer in layers.values():
        layer.B.data = 0.1 * torch.randn(layer.B.shape, generator=random)


def naive(backbone: Backbone, layers: dict[str, LowRank], heads: dict[str, torch.Tensor], b: int, t: int) -> torch.Tensor:
    """Loss of W0 + (alpha / b) sum over the first b directions of B_i A_i."""
    weights = dict(heads)
    for name, layer in layers.items():
        update = sum(torch.outer(layer.B[:, i], layer.A[i]) for i in range(b))
        weights[f"{name}.weight"] = backbone.module.get_submodule(name).weight.detach() + 2.0 * RANK / b * update  # pyright: ignore
    inputs, labels = images(t)
    logits = torch.func.functional_call(backbone.module.eval(), weights, (inputs,)).logits
    return nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_trains_the_first_b_directions_with_the_papers_scale(backbone: Backbone, frozen: bool) -> None:
    adapted, hook, layers = adapt(backbone, frozen=frozen)
    fill(layers)
    hook.start(50, torch.optim.SGD(adapted.trainable().values()))
    heads = {f"classifier.{n}": p for n, p in adapted.module.get_submodule("base_model.model.classifier").named_parameters()}
    heads = {n.replace("modules_to_save.default.", ""): p for n, p in heads.items() if "original_module" not in n}
    seen = set()
    for t in range(12):
        adapted.module.train()
        adapted.module.zero_grad()
        hook.before_step(t)
        found = loss(adapted, t)
        found.backward()
        hook.after_backward(t)
        b = hook.b
        seen.add(b)
        expected = naive(backbone, layers, heads, b, t)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        gradients = torch.autograd.grad(expected, [layer.A for layer in layers.values()])
        for layer, gradient in zip(layers.values(), gradients, strict=True):
            assert layer.A.grad is not None and layer.B.grad is not None
            first = b - 1 if frozen else 0
            torch.testing.assert_close(layer.A.grad[first:b], gradient[first:b], rtol=1e-3, atol=1e-6)
            assert layer.A.grad[first:b].any() and layer.B.grad[:, first:b].any()
            for start, stop in ((0, first), (b, RANK)):
                assert not layer.A.grad[start:stop].any() and not layer.B.grad[:, start:stop].any()
        adapted.module.eval()
        torch.testing.assert_close(loss(adapted, t), naive(backbone, layers, heads, RANK, t), rtol=1e-5, atol=1e-6)
    assert len(seen) > 3


def test_draws_depend_on_seed_and_step_alone_and_follow_the_distribution() -> None:
    state = torch.random.get_rng_state()
    uniform = registry.create("allocator", {"name": "dylora", "min_rank": 2})
    geometric = registry.create("allocator", {"name": "dylora", "distribution": "geometric", "geometric_p": 0.5})
    draws = [uniform.draw(3, step, 5) for step in range(4000)]
    assert draws[:50] == [uniform.draw(3, step, 5) for step in range(50)]
    assert draws[:50] != [uniform.draw(4, step, 5) for step in range(50)]
    assert torch.equal(torch.random.get_rng_state(), state), "the default generator was used"
    shares = {b: n / 4000 for b, n in Counter(draws).items()}
    assert shares.keys() == {2, 3, 4, 5} and all(abs(share - 0.25) < 0.03 for share in shares.values())
    falling = Counter(geometric.draw(3, step, 3) for step in range(4000))
    assert [falling[b] / 4000 for b in (1, 2, 3)] == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.03)


def fit(adapted: Adapted, hook: Any, steps: int) -> None:
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2, weight_decay=0.0)
    if hook is not None:
        hook.start(steps, optimizer)
    adapted.module.train()
    for t in range(steps):
        if hook is not None:
            hook.before_step(t)
        loss(adapted, 0).backward()  # one batch, learnt by heart
        if hook is not None:
            hook.after_backward(t)
        optimizer.step()
        if hook is not None:
            hook.after_step(t)
        optimizer.zero_grad()
    if hook is not None:
        hook.finish()


def at_rank(adapted: Adapted, b: int, factor: float) -> float:
    model = copy.deepcopy(adapted)
    for layer in model.adapter.low_rank(model).values():
        layer.truncate(b, factor)
    with torch.no_grad():
        return float(loss(model, 0))


@pytest.mark.parametrize("frozen", [False, True])
def test_smaller_ranks_cost_less_than_those_of_a_plain_lora(backbone: Backbone, frozen: bool) -> None:
    """Table 2 of the paper, on a batch that is learnt by heart; the plain LoRA gets the better of two scales at each rank."""
    dynamic, hook, _ = adapt(backbone, frozen=frozen)
    plain, _, _ = adapt(backbone)
    for model in (dynamic, plain):
        for parameter in [p for n, p in model.trainable().items() if model.is_head(n)]:
            parameter.requires_grad_(False)
    fit(dynamic, hook, 80)
    fit(plain, None, 80)
    dynamic.module.eval(), plain.module.eval()
    ours = [at_rank(dynamic, b, RANK / b) for b in range(1, RANK + 1)]
    theirs = [min(at_rank(plain, b, RANK / b), at_rank(plain, b, 1.0)) for b in range(1, RANK + 1)]
    for b in range(1, RANK):
        assert ours[b - 1] - ours[-1] < theirs[b - 1] - theirs[-1], f"rank {b}: {ours} {theirs}"


def test_the_end_is_cut_to_the_rank_of_evaluation(backbone: Backbone) -> None:
    adapted, hook, layers = adapt(backbone, evaluate_rank=2)
    fill(layers)
    hook.start(3, torch.optim.SGD(adapted.trainable().values()))
    adapted.module.eval()
    before = loss(adapted, 0)
    hook.finish()
    assert {layer.rank for layer in layers.values()} == {2}
    torch.testing.assert_close(loss(adapted, 0), before)
    assert set(hook.report()["ranks.json"]["ranks"].values()) == {2}
    assert all(not layer.down._forward_hooks for layer in layers.values())


def test_what_never_started_can_be_closed(backbone: Backbone) -> None:
    """As where another hook fails as a run starts."""
    _, hook, layers = adapt(backbone)
    hook.close()
    assert all(not layer.down._forward_hooks for layer in layers.values())


def test_a_run_that_left_nothing_out_is_noticed(backbone: Backbone) -> None:
    adapted, hook, _ = adapt(backbone)
    hook.start(2, torch.optim.SGD(adapted.trainable().values()))
    hook.steps_done, hook.draws = 2, Counter({RANK: 2})
    with pytest.raises(DidNothing, match="full rank"):
        hook.finish()


def test_an_adapter_that_took_a_part_of_the_base_is_refused(backbone: Backbone) -> None:
    with pytest.raises(OptionError, match="a part of the base"):
        adapt(backbone, {"init": "pissa"})


def sites(count: int = 4, width: int = 32) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=width, d_out=width) for i in range(count)]


@pytest.mark.parametrize(
    ("changes", "rank", "message"),
    [
        ({}, 1, "would train the same rank"),
        ({"min_rank": 8}, 8, "would train the same rank"),
        ({"evaluate_rank": 9}, 8, "above the largest that is trained, 8"),
    ],
)
def test_ranks_that_do_not_fit_are_errors_when_planned(changes: dict[str, Any], rank: int, message: str) -> None:
    allocator = registry.create("allocator", {"name": "dylora", **changes})
    with pytest.raises(OptionError, match=message):
        allocator.check(sites(), allocator.initial(sites(), rank), 100, Train())


@pytest.mark.parametrize(
    "changes",
    [{"min_rank": 0}, {"geometric_p": 1.0}, {"min_rank": 4, "evaluate_rank": 3}, {"distribution": "normal"}, {"budget": "all"}],
    ids=str,
)
def test_bad_options_are_errors_at_construction(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        registry.create("allocator", {"name": "dylora", **changes})


@pytest.mark.parametrize(("total", "steps"), [(3, [1, 2, 3]), (205, [*range(2, 205, 2), 205])])
def test_about_a_hundred_steps_and_the_last_are_noted(backbone: Backbone, total: int, steps: list[int]) -> None:
    adapted, hook, layers = adapt(backbone)
    hook.start(total, torch.optim.SGD(adapted.trainable().values()))
    drawn = []
    for step in range(total):
        hook.before_step(step)
        drawn.append(hook.b)
        hook.after_step(step)
    assert hook.history == [{"step": step, "ranks": dict.fromkeys(layers, drawn[step - 1])} for step in steps]
    assert hook.state() == {"history": hook.history, "steps_done": total, "draws": {str(b): drawn.count(b) for b in set(drawn)}}
    _, other, _ = adapt(backbone)
    other.load_state(hook.state())
    assert other.state() == hook.state()


def test_a_step_that_float16_left_out_trained_no_rank(backbone: Backbone) -> None:
    adapted, hook, _ = adapt(backbone)
    hook.start(2, torch.optim.SGD(adapted.trainable().values()))
    for step, (b, updated) in enumerate([(1, False), (RANK, True)]):
        hook.b = b
        hook.after_step(step, updated)
    assert hook.steps_done == 2 and dict(hook.draws) == {RANK: 1}
    with pytest.raises(DidNothing, match="full rank"):
        hook.finish()


def test_only_a_whole_run_is_told_that_it_left_nothing_out(backbone: Backbone) -> None:
    for steps in (1, 2):
        adapted, hook, _ = adapt(backbone)
        hook.start(2, torch.optim.SGD(adapted.trainable().values()))
        for step in range(steps):
            hook.b = RANK
            hook.after_step(step)
        if steps == 2:
            with pytest.raises(DidNothing, match="full rank"):
                hook.finish()
        else:
            hook.finish()
