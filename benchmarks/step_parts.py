"""What the parts of a LoRA step cost, each way it can be had: products, attention, dropout, adapted layers, a frozen MLP.

    python benchmarks/step_parts.py [--output FILE] [--repeats 15] [--only TEXT]

One thread, time of the processor, the ways taking turns. Shapes: ViT-Tiny at 224 and 96 px, batch 16 and 32, and MiniLM with 32
texts of 32 tokens. Prints JSON: milliseconds of a call.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _report import report
from _turns import in_turns
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from peftlab.nn.fused_low_rank import Branch, dropped_places, low_rank_linear

#: rows, inputs, outputs
PRODUCTS = ((3152, 192, 576), (3152, 192, 768), (3152, 768, 192), (1024, 384, 384), (1024, 384, 1536))
#: batch, heads, tokens, width of a head
ATTENTION = ((16, 3, 197, 64), (32, 3, 37, 64), (32, 12, 32, 32))
Ways = dict[str, Callable[[], Any]]
#: rows, inputs, inner width
MLPS = ((1184, 192, 768), (3152, 192, 768), (1184, 384, 1536))
CHUNKS = (2, 4, 8, 16)
DROPOUT = 0.05


def products(rows: int, d_in: int, d_out: int) -> Ways:
    x, weight, bias = torch.randn(rows, d_in), torch.randn(d_out, d_in), torch.randn(d_out)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return {
        "linear": lambda: F.linear(x, weight, bias),
        "oneDNN, packed weight": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""),
    }


def attention(batch: int, heads: int, tokens: int, width: int) -> Ways:
    """Forward and backward from the projection that q, k and v come from."""
    source = torch.randn(batch, tokens, 3, heads, width, requires_grad=True)

    def run(kind: str) -> None:
        q, k, v = source.permute(2, 0, 3, 1, 4).unbind(0)
        if kind == "written out":
            y = ((q * width**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            with sdpa_kernel(SDPBackend.MATH if kind == "math" else SDPBackend.FLASH_ATTENTION):
                y = F.scaled_dot_product_attention(q, k, v)
        y.transpose(1, 2).reshape(batch, tokens, -1).sum().backward()
        source.grad = None

    return {kind: functools.partial(run, kind) for kind in ("flash", "math", "written out")}


def masks(rows: int, d_in: int) -> Ways:
    x = torch.randn(rows, d_in)
    return {
        "torch's dropout": lambda: F.dropout(x, DROPOUT),
        "places by gaps": lambda: dropped_places(x.numel(), DROPOUT, x.device),
    }


def layer(rows: int, d_in: int, d_out: int, dropout: float) -> Ways:
    """Forward and backward of an adapted layer, rank 8."""
    x, weight, bias = torch.randn(rows, d_in, requires_grad=True), torch.randn(d_out, d_in), torch.randn(d_out)
    a, b = torch.randn(8, d_in, requires_grad=True), torch.randn(d_out, 8, requires_grad=True)
    gradient = torch.randn(rows, d_out)
    return {
        "plain": lambda: (
            F.linear(x, weight, bias) + F.linear(F.linear(F.dropout(x, dropout) if dropout else x, a), b) * 2.0
        ).backward(gradient),
        "fused": lambda: low_rank_linear(x, weight, bias, [Branch(a, b, 2.0, dropout)]).backward(gradient),
        "frozen": lambda: F.linear(x, weight, bias).backward(gradient),
    }


def dora(rows: int, d_in: int, d_out: int) -> Ways:
    """Forward and backward of a layer with magnitudes, rank 8."""
    import peft

    options = peft.LoraConfig(r=8, lora_alpha=16, use_dora=True)
    theirs: Any = peft.tuners.lora.Linear(nn.Linear(d_in, d_out), "default", options, r=8, lora_alpha=16)
    base = theirs.base_layer.requires_grad_(False)
    factors = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    branch = Branch(*factors, 2.0, magnitude=theirs.lora_magnitude_vector["default"].weight)
    x, gradient = torch.randn(rows, d_in, requires_grad=True), torch.randn(rows, d_out)
    return {
        "PEFT's": lambda: theirs(x).backward(gradient),
        "fused": lambda: low_rank_linear(x, base.weight, base.bias, [branch]).backward(gradient),
        "frozen": lambda: base(x).backward(gradient),
    }


def mlp(rows: int, wide: int, inner: int) -> Ways:
    """Forward and backward of two frozen layers with a GELU between, whole and in chunks of rows that stay in the cache."""
    x, gradient = torch.randn(rows, wide, requires_grad=True), torch.randn(rows, wide)
    first, second = nn.Linear(wide, inner).requires_grad_(False), nn.Linear(inner, wide).requires_grad_(False)
    hidden, y, d_x = torch.empty(rows, inner), torch.empty(rows, wide), torch.empty(rows, wide)

    def chunked(chunks: int) -> None:
        parts = [t.chunk(chunks) for t in (x.detach(), hidden, y, gradient, d_x)]
        for x_part, hidden_part, y_part, _, _ in zip(*parts, strict=True):
            torch.addmm(first.bias, x_part, first.weight.t(), out=hidden_part)
            torch.addmm(second.bias, F.gelu(hidden_part), second.weight.t(), out=y_part)
        for _, hidden_part, _, gradient_part, d_x_part in zip(*parts, strict=True):
            torch.mm(torch.ops.aten.gelu_backward(gradient_part @ second.weight, hidden_part), first.weight, out=d_x_part)

    chunked(CHUNKS[0])
    assert torch.equal(y, second(F.gelu(first(x))).detach())
    return {
        "whole": lambda: second(F.gelu(first(x))).backward(gradient),
        **{f"{chunks} chunks": functools.partial(chunked, chunks) for chunks in CHUNKS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="", help="parts whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Ways] = {
        **{f"product {shape}": products(*shape) for shape in PRODUCTS},
        **{f"attention {shape}, forward and backward": attention(*shape) for shape in ATTENTION},
        "mask (3152, 192)": masks(3152, 192),
        **{f"layer (3152, 192, 576), dropout {p:g}, forward and backward": layer(3152, 192, 576, p) for p in (0.0, DROPOUT)},
        **{f"layer (1024, 384, 384), dropout {p:g}, forward and backward": layer(1024, 384, 384, p) for p in (0.0, DROPOUT)},
        **{f"DoRA's layer {shape}, forward and backward": dora(*shape) for shape in PRODUCTS},
        **{f"frozen MLP {shape}, forward and backward": mlp(*shape) for shape in MLPS},
    }
    found = {
        part: {way: round(ms, 2) for way, ms in in_turns(ways, options.repeats, time.process_time).items()}
        for part, ways in parts.items()
        if options.only in part
    }
    report("step_parts", options.output, ("torch", "peft"), {"repeats": options.repeats}, found=found)


if __name__ == "__main__":
    main()
