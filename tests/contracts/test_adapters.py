"""What every adapter promises, checked on every registered one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftlab import registry
from peftlab.adapters._peft import PeftAdapter
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.resolve import source_of
from peftlab.nn.surgery import SlicedLinear
from peftlab.nn.triplets import TripletLinear
from peftlab.planning.estimate import trace
from peftlab.study.schema import Train
from peftlab.training.passes import tensors_of
from tests.contracts.conftest import Bench, Sample, perturb, samples, update
from tests.contracts.tiny import CLASSES


@pytest.fixture(params=samples("adapter"), ids=str)
def adapter(request: pytest.FixtureRequest, bench: Bench) -> Adapter:
    sample: Sample = request.param
    if bench.kind in sample.not_on:
        pytest.skip(sample.not_on[bench.kind])
    return registry.create("adapter", sample.spec)


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    return request.node.callspec.params["adapter"]


@pytest.fixture
def adapted(adapter: Adapter, bench: Bench) -> Adapted:
    return adapter.attach(bench.backbone(), seed=3)


def frozen(adapted: Adapted) -> dict[str, torch.Tensor]:
    """Bytes of everything that must not change: frozen parameters and buffers."""
    trained = adapted.trainable()
    state = {**dict(adapted.module.named_parameters()), **dict(adapted.module.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in state.items() if name not in trained}


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def test_the_start_changes_nothing(adapted: Adapted, bench: Bench) -> None:
    if not adapted.adapter.zero_at_start:
        pytest.skip("declared to act from the start")
    assert close(bench.outputs(adapted.module), bench.outputs(bench.backbone().module))


def test_only_what_is_declared_trains(adapted: Adapted, bench: Bench) -> None:
    plain = {name for name, _ in bench.backbone().module.named_parameters()}
    outside = {name for name in adapted.trainable() if not adapted.is_head(name)}
    assert outside & plain <= adapted.own_parameters
    logits = adapted.backbone.outputs(adapted.module, bench.inputs())
    logits.sum().backward()
    assert all(p.grad is None for p in adapted.module.parameters() if not p.requires_grad)


def test_count_is_the_closed_formula(adapter: Adapter, adapted: Adapted, bench: Bench) -> None:
    backbone = bench.backbone()
    formula = adapter.count(backbone, adapter.sites(backbone))
    assert formula == sum(p.numel() for name, p in adapted.trainable().items() if not adapted.is_head(name))
    head = sum(p.numel() for name, p in adapted.trainable().items() if adapted.is_head(name))
    assert head == backbone.head_parameters


class Sum:
    """An objective of which a plan needs nothing but that it can be differentiated."""

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return batch

    def loss(self, outputs: Any, batch: Mapping[str, torch.Tensor], smoothing: float) -> torch.Tensor:
        return torch.stack([tensor.float().sum() for tensor in tensors_of(outputs)]).sum()


def test_a_plan_sees_what_is_trained(adapter: Adapter, adapted: Adapted, bench: Bench) -> None:
    """Planning has shapes and no weights: nothing may be decomposed, and no number be asked for that only weights give."""
    head = "sequence-classification" if bench.kind == "gpt2" else "image-classification"
    meta = source_of(str(bench.folder)).load(str(bench.folder), outputs=CLASSES, head=head, device="meta")
    planned = adapter.attach(meta, seed=3)
    shapes = {name: tuple(p.shape) for name, p in adapted.trainable().items()}
    assert {name: tuple(p.shape) for name, p in planned.trainable().items()} == shapes
    inputs = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in bench.inputs().items()}
    found = trace(lambda: planned, inputs, Sum(), Train(), torch.device("cpu"))
    assert found.flops > 0


def test_merged_equals_unmerged(adapter: Adapter, adapted: Adapted, bench: Bench) -> None:
    if not adapter.mergeable:
        pytest.skip("declared not to merge")
    perturb(adapted)
    before = {name: p.detach().clone() for name, p in adapted.module.named_parameters()}
    merged = adapter.merge(adapted)
    for seed in range(3):
        assert close(bench.outputs(merged, seed), bench.outputs(adapted.module, seed), adapter.merge_tolerance)
    assert not close(bench.outputs(merged), bench.outputs(bench.backbone().module), 1e-3)
    plain = bench.backbone().module.state_dict()
    state = merged.state_dict()
    assert list(state) == list(plain)
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in plain.items()}
    assert all(torch.equal(p, before[name]) for name, p in adapted.module.named_parameters())


def test_saved_and_loaded_gives_the_same_outputs(adapter: Adapter, adapted: Adapted, bench: Bench, tmp_path: Path) -> None:
    perturb(adapted)
    adapter.save(adapted, tmp_path)
    loaded = adapter.load(bench.backbone(), tmp_path)
    for seed in range(2):
        assert close(bench.outputs(loaded, seed), bench.outputs(adapted.module, seed))


def test_plain_peft_loads_it(adapter: Adapter, adapted: Adapted, bench: Bench, tmp_path: Path) -> None:
    if not isinstance(adapter, PeftAdapter):
        pytest.skip("not a PEFT method")
    perturb(adapted)
    adapter.save(adapted, tmp_path)
    loaded = peft.PeftModel.from_pretrained(bench.backbone().module, str(tmp_path))  # pyright: ignore
    assert close(bench.outputs(loaded), bench.outputs(adapted.module))


def test_what_is_saved_in_pefts_format_names_its_backbone(adapter: Adapter, adapted: Adapted, tmp_path: Path) -> None:
    if not isinstance(adapter, PeftAdapter):
        pytest.skip("not a PEFT method")
    adapter.save(adapted, tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert found["base_model_name_or_path"] == adapted.backbone.name


def test_triplets_are_declared_where_there_are_some(adapter: Adapter, adapted: Adapted) -> None:
    """Allocators that switch triplets off are let act on adapters that say they have them."""
    assert adapter.has_triplets == any(isinstance(module, TripletLinear) for module in adapted.module.modules())


def test_slices_are_declared_where_fused_layers_are_taken_apart(adapter: Adapter, adapted: Adapted) -> None:
    """A quantizer stores slice by slice for those that say so (training/assemble.py), and whole layers for the others."""
    taken_apart = any(isinstance(module, SlicedLinear) for module in adapted.module.modules())
    sliced = any(site.parent is not None for site in adapted.sites)
    assert taken_apart == (adapter.takes_slices and sliced)


def test_every_trainable_tensor_moves_and_nothing_else(adapted: Adapted, bench: Bench) -> None:
    start = {name: p.detach().clone() for name, p in adapted.trainable().items()}
    still = frozen(adapted)
    update(adapted, bench, steps=2)
    key_biases = {s.name + ".bias" for s in adapted.backbone.roles.sites if s.role == "k"}
    stuck = [n for n, p in adapted.trainable().items() if torch.equal(p, start[n]) and n not in key_biases]
    assert not stuck
    now = {**dict(adapted.module.named_parameters()), **dict(adapted.module.named_buffers())}
    assert [name for name, tensor in still.items() if not torch.equal(tensor, now[name])] == []


def test_the_start_depends_on_the_seed_alone(adapter: Adapter, adapted: Adapted, bench: Bench, sample: Sample) -> None:
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    same = adapter.attach(bench.backbone(), seed=3).trainable()
    assert torch.equal(torch.random.get_rng_state(), state), "the default generator was used"
    first = adapted.trainable()
    assert list(first) == list(same)
    assert all(torch.equal(p, same[name]) for name, p in first.items())
    added = [n for n in first if not adapted.is_head(n) and n not in adapted.own_parameters]
    if added and not sample.fixed_start:
        other = adapter.attach(bench.backbone(), seed=4).trainable()
        assert any(not torch.equal(first[name], other[name]) for name in added)


def test_options_survive_the_way_to_a_study_file_and_back(adapter: Adapter) -> None:
    assert registry.create("adapter", adapter.spec()) == adapter
    assert adapter.summary()
