"""Members of a stack get the outputs and gradients that they get alone, whatever their adapters; or a reason why they do not."""

from __future__ import annotations

import pytest
import torch

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.nn.stacked import Seat, Unstackable, join
from tests.contracts.conftest import Bench, Sample, perturb, samples
from tests.training.conftest import one_thread

#: adapters whose layers are shared on every tiny model here; others may be, or say why not
SHARED = ("lora", "linear-probe", "bitfit", "svd", "ln-tuning")


def gradients(adapted: Adapted, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = adapted.trainable()
    found = torch.autograd.grad(loss, list(tensors.values()), retain_graph=True, allow_unused=True)
    return {name: g for name, g in zip(tensors, found, strict=True) if g is not None}


def score(logits: torch.Tensor) -> torch.Tensor:
    return (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum()


__all__ = ["one_thread"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("sample", samples("adapter"), ids=str)
def test_as_alone_or_not_at_all(sample: Sample, bench: Bench) -> None:
    if bench.kind in sample.not_on:
        pytest.skip(sample.not_on[bench.kind])
    adapter, probe = registry.create("adapter", sample.spec), registry.create("adapter", "linear-probe")
    members = [
        adapter.attach(bench.backbone(), seed=3),
        probe.attach(bench.backbone(), seed=5),
        adapter.attach(bench.backbone(), seed=4),
    ]
    for member in members:
        perturb(member)
        member.fused = member.adapter.fuse(member)
        member.module.eval()
    batches = [bench.inputs(seed) for seed in range(3)]
    alone = [m.backbone.outputs(m.module, batch) for m, batch in zip(members, batches, strict=True)]
    wanted = [gradients(m, score(logits)) for m, logits in zip(members, alone, strict=True)]
    try:
        joint = join([member.backbone.module for member in members], members[0].backbone.heads)
    except Unstackable as reason:
        assert str(reason) and (adapter.name not in SHARED or adapter.unstackable), reason
        pytest.skip(f"not computed together: {reason}")
    joint.module.eval()
    rows = [len(next(iter(batch.values()))) for batch in batches]
    starts = [sum(rows[:i]) for i in range(4)]
    joint.seats.taken = [Seat(i, starts[i], starts[i + 1], torch.Generator()) for i in range(3)]
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    logits = members[0].backbone.outputs(joint.module, together)
    for i, member in enumerate(members):
        mine = logits[starts[i] : starts[i + 1]]
        assert torch.allclose(mine, alone[i], rtol=1e-5, atol=1e-6), member.adapter.name
        found = gradients(member, score(mine))
        assert found.keys() == wanted[i].keys()
        assert all(torch.allclose(found[n], wanted[i][n], rtol=1e-4, atol=1e-6) for n in found)
