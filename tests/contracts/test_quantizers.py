"""What every quantizer promises, checked on every registered one."""

from __future__ import annotations

import pytest
import torch

from peftlab import registry
from peftlab.quantizers.contract import Quantizer
from tests.contracts.conftest import Bench, samples


@pytest.fixture(params=samples("quantizer"), ids=str)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    found: Quantizer = registry.create("quantizer", request.param.spec)
    reason = found.refuse("cpu")
    if reason:
        pytest.skip(reason)
    return found


def test_what_it_names_it_converted_and_the_rest_it_left(quantizer: Quantizer, bench: Bench) -> None:
    backbone = bench.backbone()
    before = {n: (p.dtype, p.detach().clone()) for n, p in backbone.module.named_parameters()}
    converted = quantizer.convert(backbone)
    modules = dict(backbone.module.named_modules())
    assert converted.keys() <= modules.keys()
    for name, parameter in backbone.module.named_parameters():
        if name.rpartition(".")[0] not in converted:
            dtype, value = before[name]
            assert parameter.dtype == dtype
            assert torch.equal(parameter, value)
    assert not any(backbone.in_head(name + ".") for name in converted), "heads stay in float"


def test_outputs_stay_finite_and_deterministic(quantizer: Quantizer, bench: Bench) -> None:
    backbone, again = bench.backbone(), bench.backbone()
    assert quantizer.convert(backbone) == quantizer.convert(again)
    first = bench.outputs(backbone.module)
    assert torch.isfinite(first).all()
    assert torch.equal(first, bench.outputs(again.module))


def test_options_survive_the_way_to_a_study_file_and_back(quantizer: Quantizer) -> None:
    assert registry.create("quantizer", quantizer.spec()) == quantizer
    assert quantizer.summary()


def test_none_changes_nothing(bench: Bench) -> None:
    none = registry.create("quantizer", "none")
    backbone = bench.backbone()
    assert none.convert(backbone) == {}
    assert torch.equal(bench.outputs(backbone.module), bench.outputs(bench.backbone().module))
    assert [none.refuse(device) for device in ("cpu", "cuda", "mps")] == [None, None, None]
