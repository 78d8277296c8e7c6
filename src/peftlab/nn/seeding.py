"""Seeds derived from seeds, and the only place where torch's default generator is set."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *path: str | int) -> int:
    """An independent 63-bit seed for a purpose: SHA-256 of the seed and the path that names the purpose."""
    digest = hashlib.sha256(repr((int(seed), *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *path))


def default_generator(device: torch.device) -> torch.Generator:
    """torch's default generator of a device."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index if device.index is not None else torch.cuda.current_device()]
    return torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator  # pyright: ignore


def seed_default(seed: int, device: torch.device) -> None:
    """Set the default generators of the CPU and of ``device``; torch's own function also asks devices that are not used."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, *path: str | int) -> Iterator[None]:
    """Inside, torch's default generator starts from the derived seed; outside it is as it was.

    For libraries (initialisers, dropout) that take no generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *path))
        yield
