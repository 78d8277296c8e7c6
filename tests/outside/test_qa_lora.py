"""QA-LoRA through our quantizer, adapter, training loop and merge is QA-LoRA written from the paper, for every type."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import quantized_layers
from tests.outside.paper_qa_lora import (
    Matrix,
    code_book,
    decode_integers,
    merged_zeros,
    min_max,
    output,
    with_offsets,
)
from tests.outside.paper_qlora import fp4, nf4
from tests.outside.paper_training import Kept, PaperRun, batches, in_double
from tests.training.conftest import Lab, Lines

GROUP, RANK, SCALE = 8, 3, 2.0
INTEGERS, BOOKS = {"int4": 4, "int8": 8}, {"nf4": nf4, "fp4": fp4}
TYPES = (*INTEGERS, *BOOKS)


def by_hand(weight: Tensor, kind: str) -> tuple[Matrix, Matrix]:
    """W~ of the paper [out][in], and how clear each rounding was."""
    rows = weight.double().tolist()
    if kind in BOOKS:
        return code_book(rows, GROUP, BOOKS[kind]())
    codes, scales, zeros, margins = min_max(rows, GROUP, INTEGERS[kind])
    return decode_integers(codes, scales, zeros, GROUP), margins


def double(rows: Matrix) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("kind", TYPES)
def test_groups_are_the_papers(kind: str) -> None:
    """Also of a constant group, a group of zeros, and groups of unlike sizes."""
    weight = torch.randn(12, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 12)[:, None]
    weight[0, :GROUP], weight[1, GROUP : 2 * GROUP] = 0.25, 0.0
    layer = torch.nn.Linear(32, 12, bias=False).requires_grad_(False)
    layer.weight.data = weight
    wanted, margins = by_hand(weight, kind)
    clear = double(margins) > 1e-4
    assert float(clear.double().mean()) > 0.98
    found = PackedLinear.of(layer, GROUP, kind).dequantize().double()  # pyright: ignore
    torch.testing.assert_close(found[clear], double(wanted)[clear], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_every_step_of_a_training_and_the_merge_are_the_papers(lab: Lab, tmp_path: Path, kind: str) -> None:
    """12 steps on all layers quantized; then zero points (or offsets), codes and outputs of what is merged."""
    kept, lines = Kept(), Lines()
    options = {"train": {"epochs": 2, "learning_rate": 1e-2}, "hooks": (kept,), "listener": lines}
    quantizer = {"name": "groupwise", "type": kind, "group_size": GROUP}
    trainer = in_double(lab.trainer(tmp_path, {"name": "pooled", "rank": RANK}, quantizer=quantizer, **options))
    kept.trainer, adapted = trainer, trainer.adapted
    plain = copy.deepcopy(lab.trainer(tmp_path / "plain", "full").adapted.module)
    layers = {name.removesuffix(".base_layer"): layer for name, layer in quantized_layers(adapted.module).items()}
    floats: dict[str, Tensor] = {name: plain.get_submodule(name).weight.detach() for name in layers}  # pyright: ignore
    sites = {s.name: {k: trainer.trainable[f"{s.name}.{k}"] for k in "AB"} for s in adapted.sites}
    theirs = PaperRun(
        plain,
        {name: double(by_hand(weight, kind)[0]) for name, weight in floats.items()},
        sites,
        {n: p for n, p in trainer.trainable.items() if adapted.is_head(n)},
        lambda part: (SCALE * part["B"] @ part["A"]).repeat_interleave(GROUP, dim=1),  # s g B A mean_g(x), as a matrix
        decay=0.01,
        clip_norm=1.0,
    )
    assert len(layers) == 12 and len(sites) == 4
    steps = batches(trainer)
    trainer.fit()
    for t, (pixels, labels, rate) in enumerate(steps):
        loss, _ = theirs.step(pixels, labels, rate)
        assert loss == pytest.approx(lines.losses[t], rel=1e-6), f"step {t}"
        for name, parts in theirs.parts.items():
            for key, wanted in parts.items():
                found = kept.steps[t][f"{name}.{key}"]
                torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-7, msg=f"step {t}, {name}, {key}")

    merged = adapted.adapter.merge(adapted)
    for name, parts in theirs.parts.items():
        a, b, rows = parts["A"].tolist(), parts["B"].tolist(), floats[name].double().tolist()
        layer, before = merged.get_submodule(name), layers[name]
        assert isinstance(layer, PackedLinear) and layer.shift is not None
        assert torch.equal(layer.codes(), before.codes())
        if kind in INTEGERS:
            codes, scales, zeros, _ = min_max(rows, GROUP, INTEGERS[kind])
            new = merged_zeros(scales, zeros, b, a, SCALE)
            assert layer.codes().tolist() == codes
            torch.testing.assert_close(layer.shift.double(), double(new).T, rtol=1e-4, atol=1e-5)
            wanted = decode_integers(codes, scales, new, GROUP)
        else:
            wanted = with_offsets(code_book(rows, GROUP, BOOKS[kind]())[0], b, a, scale=SCALE, size=GROUP)
        torch.testing.assert_close(layer.dequantize().double(), double(wanted), rtol=1e-5, atol=1e-6)
        x = torch.randn(floats[name].shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        unmerged = output(x.tolist(), theirs.frozen[name].tolist(), b, a, scale=SCALE, size=GROUP)
        bias = layer.bias.detach().double() if layer.bias is not None else 0.0
        torch.testing.assert_close(layer(x), torch.tensor(unmerged, dtype=torch.float64) + bias, rtol=1e-5, atol=1e-5)
    pixels = steps[0][0]
    with torch.no_grad():
        ours = adapted.backbone.outputs(merged.eval(), {"pixel_values": pixels.double()})
        torch.testing.assert_close(ours, theirs.logits(pixels).detach(), rtol=1e-5, atol=1e-5)
