"""Members of a stack get the outputs and gradients that they get alone, whatever their adapters; or a reason why they do not."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.nn.stacked import Seat, Unstackable, join
from peftlab.training.passes import Passes
from peftlab.training.stack import Stack
from tests.contracts.conftest import Bench, Sample, perturb, samples
from tests.contracts.tiny import CLASSES
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


#: options of PEFT's tuners that leave every tensor its shape
OF_PEFT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LORA", {"r": 4, "lora_alpha": 4}, {"r": 4, "lora_alpha": 64}),
    ("LORA", {"r": 4, "lora_dropout": 0.0}, {"r": 4, "lora_dropout": 0.5}),
    ("LORA", {"r": 4, "use_rslora": False}, {"r": 4, "use_rslora": True}),
    ("LORA", {"r": 4, "use_dora": True, "lora_alpha": 4}, {"r": 4, "use_dora": True, "lora_alpha": 64}),
    ("LORA", {"r": 4, "bias": "none"}, {"r": 4, "bias": "lora_only"}),
    ("LOHA", {"r": 4, "alpha": 4}, {"r": 4, "alpha": 64}),
    ("LOKR", {"r": 4, "alpha": 4}, {"r": 4, "alpha": 64}),
    ("OFT", {"oft_block_size": 8}, {"oft_block_size": 8, "coft": True, "eps": 1e-6}),
    ("FOURIERFT", {"n_frequency": 10, "scaling": 1.0}, {"n_frequency": 10, "scaling": 100.0}),
    ("IA3", {}, {"init_ia3_weights": False}),
    ("VERA", {"r": 8, "d_initial": 0.1}, {"r": 8, "d_initial": 1.0, "vera_dropout": 0.5}),
]


def pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Two specs of an adapter that differ in one option, and in no shape where the option decides none."""
    for name in registry.components("adapter"):
        base: Any = next(sample for sample in samples("adapter") if sample.name == name).spec
        adapter = type(registry.create("adapter", base))
        kinds = typing.get_type_hints(adapter)
        for option in (field.name for field in dataclasses.fields(adapter)):
            kind = kinds[option]
            if typing.get_origin(kind) is Literal:
                values = typing.get_args(kind)[::-1][-2:]
            elif kind is bool or bool in typing.get_args(kind):
                values = (False, True)
            elif kind is float or float in typing.get_args(kind):
                values = (0.0, 0.5) if option == "dropout" else (1.0, 16.0)
            else:
                continue
            yield tuple({**base, option: value} for value in values)  # pyright: ignore
    for kind, *both in OF_PEFT:
        yield tuple({"name": "peft", "type": kind, "targets": ["o"], "config_options": options} for options in both)  # pyright: ignore


def shown(pair: tuple[dict[str, Any], dict[str, Any]]) -> str:
    one, other = ({**spec, **spec.get("config_options", {})} for spec in pair)
    changed = "-".join(f"{key}={other[key]}" for key in other if one.get(key) != other[key] and key != "config_options")
    return f"{one.get('type', one['name'])}[{changed}]"


def trained(adapted: Adapted, bench: Bench, number: int, passes: Passes) -> None:
    """From where it begins; with equal dropout draws, so that nobody differs in them either."""
    optimizer = torch.optim.SGD(adapted.trainable().values(), lr=0.1)
    adapted.module.train()
    for step in range(4):
        torch.manual_seed(step)
        logits = passes.outputs(adapted, bench.inputs(10 * number + step))
        passes.backward(torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % CLASSES))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("pair", pairs(), ids=shown)
def test_what_tells_members_apart_counts_from_the_first_update_on(
    pair: tuple[dict[str, Any], dict[str, Any]], fused: bool, bench: Bench
) -> None:
    """Of equal seeds and one option apart: where an update starts at zero, a joint pass begins alike whosever option it takes."""
    if bench.kind == "gpt2":
        pytest.skip("its attention draws random numbers for all rows")

    def members() -> list[Adapted]:
        made = [registry.create("adapter", spec).attach(bench.backbone(), seed=3) for spec in pair]
        for member in made:
            member.fused = member.adapter.fuse(member) if fused else member.fused
        return made

    alone, joint = members(), members()
    if fused and not any(member.fused.layers for member in joint):
        pytest.skip("nothing is fused")
    for number, member in enumerate(alone):
        trained(member, bench, number, Passes())
    stack = Stack([functools.partial(trained, m, bench, i) for i, m in enumerate(joint)], torch.device("cpu"), "float32")
    stack.run()
    for one, other, seat in zip(alone, joint, stack.members, strict=True):
        assert seat.joint == seat.passes or seat.alone
        assert seat.joint or one.adapter.name not in SHARED or any(m.adapter.unstackable for m in joint), seat.alone
        theirs = other.trainable()
        for name, tensor in one.trainable().items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
