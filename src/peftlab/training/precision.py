"""Numeric precision of a run."""

from __future__ import annotations

import contextlib
import re
from typing import Literal

import torch

from peftlab.errors import OptionError, PlanRefused

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
    """``auto``: CUDA, then MPS, then the CPU.

    Raises:
        OptionError: no such device.
        PlanRefused: it is not here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if wanted not in there:
        one = re.fullmatch(r"cuda:(\d+)", wanted)
        known = "auto, cpu, cuda (NVIDIA) or mps (Apple)"  # the nearest word to gpu would be cpu
        remedy = f"write --device cuda, and CUDA_VISIBLE_DEVICES={one[1]} before the command" if one else known
        raise OptionError(f"there is no device {wanted!r}", where="--device", remedy=remedy)
    if not there[wanted]:
        remedy = "leave the option out to take what is here; `peftlab doctor` says what that is"
        raise PlanRefused(f"torch finds no {wanted.upper()} device here", where="--device", remedy=remedy)
    return torch.device(wanted)
