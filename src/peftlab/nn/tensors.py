"""Tensors of which a process may keep only a part: the part, the whole, and the checksum of the whole."""

from __future__ import annotations

import hashlib

import torch


def is_sharded(module: torch.nn.Module) -> bool:
    """Whether processes share its weights."""
    return any(hasattr(parameter, "to_local") for parameter in module.parameters())


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process keeps."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor; where it is divided, every process has to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore


def tensor_hash(tensor: torch.Tensor) -> str:
    """SHA-256 over the bytes of a tensor, hexadecimal."""
    flat = whole(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()
