"""Numeric precision of a run."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """``auto``: bfloat16 on a CUDA device that has it, else float32 (CPUs without such units are several times slower in it)."""
    if wanted != "auto":
        return wanted  # pyright: ignore
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bfloat16"
    return "float32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager:
    """Matrix products in the given precision; weights, optimizer and losses stay float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def higher(precision: Precision) -> Precision | None:
    """The next safer precision; None when there is none."""
    return "float32" if precision != "float32" else None


def resolve_device(wanted: str) -> torch.device:
    """``auto``: CUDA, then MPS, then the CPU."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
