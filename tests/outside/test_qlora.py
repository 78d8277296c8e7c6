"""QLoRA's code books, blocks and double quantization, written from the papers, against bitsandbytes and what we train on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.nn.groups import BOOKS, quantize_groups
from peftlab.nn.quantized import quantized_layers
from tests.outside.paper_qlora import blocks, decode, double, dynamic8, fp4, nf4
from tests.outside.paper_training import Kept, PaperRun, batches
from tests.training.conftest import Lab, Lines

bnb = cast(Any, pytest.importorskip("bitsandbytes", reason="needs bitsandbytes"))
PAPER = {"nf4": nf4, "fp4": fp4}
KINDS = tuple(PAPER)
CLEAR = 1e-5  #: a choice between two codes that rounding to float32 cannot turn


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """With a row of zeros, and rows of very unlike sizes."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight[1] = 0.0
    return weight * torch.logspace(-3, 2, rows)[:, None]


def linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return layer.requires_grad_(False)


def by_hand(weight: torch.Tensor, kind: str, *, nested: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """W~ in blocks of 64 over the flat weight, and which entries were clear choices (all statistics of their block, too)."""
    book, flat = PAPER[kind](), weight.double().flatten().tolist()
    codes, maxima, margins = blocks(flat, 64, book)
    clear = torch.tensor([margin > CLEAR for margin in margins])
    if nested:
        maxima, of_maxima = double(maxima)
        clear &= torch.tensor([margin > CLEAR for margin in of_maxima]).repeat_interleave(64)[: len(flat)]
    return torch.tensor(decode(codes, maxima, 64, book), dtype=torch.float64).view_as(weight), clear.view_as(weight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_book_follows_from_its_definition(kind: str) -> None:
    """NF4: quantiles of the normal distribution (scipy), not a table that was copied."""
    wanted = torch.tensor(PAPER[kind](), dtype=torch.float64)
    ours = torch.tensor(sorted(set(BOOKS[kind])), dtype=torch.float64)
    theirs = bnb.functional.quantize_4bit(torch.ones(1, 64), blocksize=64, quant_type=kind)[1].code.double().unique()
    assert float((ours - wanted).abs().max()) < 1e-6  # the published table was computed in float32
    assert float((theirs - wanted).abs().max()) < 1e-6


def test_the_8_bit_code_of_the_second_quantization_follows_from_its_definition() -> None:
    state = bnb.functional.quantize_4bit(gaussian(64, 64), blocksize=64, quant_type="nf4", compress_statistics=True)[1]
    assert float((state.state2.code.double() - torch.tensor(dynamic8(), dtype=torch.float64)).abs().max()) < 1e-6
    assert state.state2.blocksize == 256


@pytest.mark.parametrize("nested", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("kind", KINDS)
def test_stored_weights_are_the_papers(kind: str, nested: bool) -> None:
    """Ours (quantizer `bnb`) and bitsandbytes' own, entry by entry; more blocks than one second block holds."""
    weight = gaussian(150, 128)
    wanted, clear = by_hand(weight, kind, nested=nested)
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=nested)
    layer = registry.create("quantizer", {"name": "bnb", "type": kind, "double": nested}).quantize(linear(weight))
    assert 0.99 < float(clear.double().mean()) <= 1
    for found in (bnb.functional.dequantize_4bit(packed, state), layer.dequantize()):
        torch.testing.assert_close(found.double()[clear], wanted[clear], rtol=1e-5, atol=1e-6)


def test_double_quantization_costs_what_the_paper_says() -> None:
    """Block statistics: 32/64 = 0.5 bits a parameter; in two levels 8/64 + 32/(64 * 256) = 0.127."""
    for nested, bits in ((False, 32 / 64), (True, 8 / 64 + 32 / (64 * 256))):
        quantizer = registry.create("quantizer", {"name": "bnb", "double": nested})
        assert quantizer.bits_per_parameter(4096, 4096) == pytest.approx(4 + bits, abs=6e-4)  # the tables, once a layer


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_64_are_the_papers_blocks(kind: str) -> None:
    """Our `groupwise` where groups and blocks coincide."""
    weight = gaussian(40, 128, seed=1)
    wanted, clear = by_hand(weight, kind, nested=False)
    found = quantize_groups(weight, 64, cast(Any, kind)).dequantize().double()
    torch.testing.assert_close(found[clear], wanted[clear], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_on_them_is_the_papers(lab: Lab, tmp_path: Path, kind: str) -> None:
    """y = W~ x + (alpha/r) B A x over double-quantized weights, through our loop and by hand: every step of 12."""
    kept, lines = Kept(), Lines()
    options = {"train": {"epochs": 2, "learning_rate": 1e-2}, "hooks": (kept,), "listener": lines}
    quantizer = {"name": "bnb", "type": kind, "double": True}
    lora = {"name": "lora", "rank": 3, "dropout": 0.0}
    trainer = lab.trainer(tmp_path, lora, quantizer=quantizer, **options)  # float32: bitsandbytes has no float64
    kept.trainer = trainer
    plain = copy.deepcopy(lab.trainer(tmp_path / "plain", "full").adapted.module)
    names = [
        name.replace("base_model.model.", "").removesuffix(".base_layer") for name in quantized_layers(trainer.adapted.module)
    ]
    frozen = {name: by_hand(plain.get_submodule(name).weight.detach(), kind, nested=True)[0] for name in names}  # pyright: ignore
    factors: dict[str, dict[str, torch.Tensor]] = {}
    where: dict[str, str] = {}
    for name, parameter in trainer.trainable.items():
        for key in "AB":
            if f".lora_{key}." in name:
                site = name.partition(f".lora_{key}.")[0].removeprefix("base_model.model.")
                factors.setdefault(site, {})[key] = parameter
                where[f"{site}/{key}"] = name
    head = {n: p for n, p in trainer.trainable.items() if trainer.adapted.is_head(n)}
    plain_names = {n: n.replace("base_model.model.", "").replace("modules_to_save.default.", "") for n in head}
    theirs = PaperRun(
        plain,
        frozen,
        factors,
        {plain_names[n]: p for n, p in head.items()},
        lambda part: 2.0 * part["B"] @ part["A"],
        decay=0.01,
        clip_norm=1.0,
    )
    assert len(frozen) == 12 and len(factors) == 4
    steps = batches(trainer)
    trainer.fit()
    for t, (pixels, labels, rate) in enumerate(steps):
        loss, _ = theirs.step(pixels, labels, rate)
        assert loss == pytest.approx(lines.losses[t], rel=1e-5), f"step {t}"
        for key, name in where.items():
            site, _, letter = key.rpartition("/")
            wanted = theirs.parts[site][letter].detach()
            torch.testing.assert_close(kept.steps[t][name].double(), wanted, rtol=1e-3, atol=1e-5, msg=f"step {t}, {key}")
    for n in head:
        torch.testing.assert_close(kept.steps[-1][n].double(), theirs.head[plain_names[n]].detach(), rtol=1e-3, atol=1e-5)
