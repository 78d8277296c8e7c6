"""Allocators that act during training, through a whole schedule on GPT-2, whose qkv is fused and transposed."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from tests.contracts.tiny import CLASSES, make

STEPS, BATCHES = 24, 4


@dataclasses.dataclass(frozen=True)
class Case:
    adapter: dict[str, Any]
    allocator: dict[str, Any]

    def __str__(self) -> str:
        return str(self.allocator["name"])


SVD = {"name": "svd", "rank": 4, "targets": ["q", "v", "up"]}
LORA = {**SVD, "name": "lora"}
RULE = {"min_rank": 1, "max_rank": 8, "warmup_steps": 4, "every": 4, "last_step": 17, "hysteresis": 0.0}
CASES = [
    Case(SVD, {"name": "adalora", "budget": {"ranks": 9}, "initial_steps": 3, "final_steps": 6, "every": 2}),
    Case(SVD, {"name": "sora", "threshold": 2e-2}),
    Case(SVD, {"name": "increlora", "budget": {"ranks": 15}, "initial_steps": 3, "every": 2, "warmup": 2}),
    Case(LORA, {"name": "dylora", "evaluate_rank": 2}),
    Case(LORA, {"name": "proportional", "importance": "magnitude", **RULE}),
    Case(LORA, {"name": "threshold", "importance": "gradient_norm", "quantile": 0.5, **RULE}),
    Case(LORA, {"name": "top_k", "importance": "fisher", **RULE}),
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = make("gpt2", tmp_path_factory.mktemp("gpt2"))
    return source_of(str(folder)).load(str(folder), outputs=CLASSES, head="sequence-classification", seed=0)


def tokens(t: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(1, 64, (8, 9), generator=torch.Generator().manual_seed(t))}


def train(backbone: Backbone, case: Case) -> tuple[Adapted, dict[str, Any], list[float]]:
    """An own loop: the label of a text is the class of its last token."""
    adapter = registry.create("adapter", case.adapter)
    allocator = registry.create("allocator", case.allocator)
    own = copy.deepcopy(backbone)
    sites = adapter.sites(own)
    adapted = adapter.attach(own, seed=1, ranks=allocator.initial(sites, adapter.rank))
    adapted.seed = 1
    if not allocator.needs_probe:
        allocator.initialise(adapted, None)
    hook = allocator.hook(adapted)
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2, weight_decay=0.0)
    hook.start(STEPS, optimizer)
    adapted.module.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = [step(adapted, hook, optimizer, t) for t in range(STEPS)]
    hook.finish()
    hook.close()
    return adapted, hook.report()["ranks.json"], losses


def step(adapted: Adapted, hook: Any, optimizer: torch.optim.Optimizer, t: int) -> float:
    hook.before_step(t)
    batch = tokens(t % BATCHES)
    logits = adapted.backbone.outputs(adapted.module, batch)
    loss = nn.functional.cross_entropy(logits, batch["input_ids"][:, -1] % CLASSES)
    penalty = hook.penalty()
    (loss if penalty is None else loss + penalty).backward()
    hook.after_backward(t)
    optimizer.step()
    hook.after_update(t)
    hook.after_step(t)
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_whole_schedule_learns_and_exports_an_ordinary_lora(backbone: Backbone, case: Case, tmp_path: Path) -> None:
    adapted, content, losses = train(backbone, case)
    assert sum(losses[-BATCHES:]) < 0.9 * sum(losses[:BATCHES])  # of the same texts
    assert {site.parent for site in adapted.sites} == {"transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", None}
    adapted.adapter.save(adapted, tmp_path)
    loaded: Any = peft.PeftModel.from_pretrained(copy.deepcopy(backbone).module, str(tmp_path)).eval()  # pyright: ignore
    merged = adapted.adapter.merge(adapted).eval()
    adapted.module.eval()
    with torch.no_grad():
        ours, theirs, folded, plain = (
            adapted.backbone.outputs(model, tokens(99)) for model in (adapted.module, loaded, merged, backbone.module.eval())
        )
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded, ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)
    found = {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in loaded.named_modules()
        if hasattr(module, "lora_A")
    }
    expected: dict[str, int] = {}
    for site in adapted.sites:  # the slices of a fused layer are exported as one block-structured LoRA
        expected[site.parent or site.name] = expected.get(site.parent or site.name, 0) + content["ranks"][site.name]
    assert found == {name: rank for name, rank in expected.items() if rank}
    assert len(set(content["ranks"].values())) > 1 or case.allocator["name"] == "dylora"
