"""Compiled steps: the numbers of plain ones up to rounding, masks of dropout included; what cannot be compiled says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.nn.flops import flop_counter
from peftlab.training.compiled import Compiled
from peftlab.training.passes import Passes
from tests.training.conftest import Lab

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def kernels_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))


def batch(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))}


@pytest.mark.parametrize(
    "adapter",
    [
        {"name": "lora", "dropout": 0.1},
        {"name": "lora", "targets": "all-linear"},
        {"name": "lora", "dora": True},
        {"name": "svd"},
    ],
    ids=str,
)
def test_no_break_in_our_layers(lab: Lab, tmp_path: Path, adapter: Any) -> None:
    """One graph, whatever stands in it; the compiler behind it is not asked."""
    from peftlab.nn.fused_layers import settle

    adapted = lab.trainer(tmp_path, adapter).adapted
    adapted.module.train()
    settle(adapted.module)
    torch._dynamo.reset()  # pyright: ignore
    found = torch._dynamo.explain(lambda inputs: adapted.backbone.outputs(adapted.module, inputs))(batch(4))  # pyright: ignore
    assert found.graph_break_count == 0, [str(reason.reason)[:200] for reason in found.break_reasons]


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_equals_a_plain_one_to_rounding(lab: Lab, tmp_path: Path) -> None:
    adapter = {"name": "lora", "dropout": 0.1}
    plain, made = (lab.trainer(tmp_path / name, adapter, train={"batch_size": 16}) for name in ("plain", "compiled"))
    passes = Compiled(tmp_path / "cache", CPU, "float32")
    before = {n: p.detach().clone() for n, p in made.adapted.module.named_parameters()}
    state = torch.get_rng_state()
    passes.prepare(made.adapted, made.task.inputs(made.task.batch(made.splits.train[:16])))
    assert passes.why == "" and passes.seconds > 0
    assert torch.equal(state, torch.get_rng_state()), "random numbers go on where they were"
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in made.adapted.module.named_parameters())
    made.passes = passes
    plain.fit(), made.fit()
    assert passes.passes == 10, "the last batch of an epoch has another shape and is computed as ever"
    for one, other in zip(plain.trainable.values(), made.trainable.values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    assert made.listener.losses == pytest.approx(plain.listener.losses, rel=1e-4)  # pyright: ignore


def test_what_cannot_be_compiled_says_so_and_goes_the_ordinary_way(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    trainer = lab.trainer(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda *_args, **_options: broken)
    passes = Compiled(tmp_path, CPU, "float32")
    assert passes.why, "nothing is compiled before it is tried"
    passes.prepare(trainer.adapted, batch(4))
    assert passes.why == "it cannot be compiled: RuntimeError: no compiler here"
    assert (
        torch.equal(passes.outputs(trainer.adapted, batch(4)), Passes().outputs(trainer.adapted, batch(4))) and not passes.passes
    )


def test_a_step_whose_operations_are_counted_goes_the_ordinary_way(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = lab.trainer(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    passes = Compiled(tmp_path, CPU, "float32")
    passes.prepare(trainer.adapted, batch(4))
    with flop_counter() as counter:
        passes.outputs(trainer.adapted, batch(4))
    assert passes.passes == 0 and counter.get_total_flops() > 0
    passes.outputs(trainer.adapted, batch(4))
    assert passes.passes == 1, "and the next is compiled again"


def test_other_outputs_are_noticed(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = lab.trainer(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda inputs: function(inputs) * 1.01)
    passes = Compiled(tmp_path, CPU, "float32")
    passes.prepare(trainer.adapted, batch(4))
    assert passes.why == "compiled it gives other outputs or gradients"
