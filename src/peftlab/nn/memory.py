"""How much memory a device has, and how much of it is free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

MB = 1e6
#: on a GPU a process keeps this much outside the allocator (context, kernels): 0.3-0.6 GB; a reserve, not a measurement
GPU_CONTEXT_MB = 600.0


def memory_mb(device: str) -> tuple[float, float]:
    """(total, available) in MB of "cpu", "cuda" or "mps"; on a CPU within the limits of the control group."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total / MB, max(0.0, free / MB - GPU_CONTEXT_MB)
    memory = psutil.virtual_memory()
    if device == "mps":
        most = torch.mps.recommended_max_memory() / MB
        return most, min(most, memory.available / MB)
    total, available = memory.total / MB, memory.available / MB
    for most, used in control_groups(Path("/sys/fs/cgroup")):
        total, available = min(total, most), min(available, max(0.0, most - used))
    return total, available


def control_groups(root: Path) -> Iterator[tuple[float, float]]:
    """(limit, used) in MB of this process's control group, versions 2 and 1, where it has a limit.

    What it has read from disk counts as used there, and is dropped when memory is asked for: not so here.
    """
    for folder, names, cached in (
        (root, ("memory.max", "memory.current"), ("inactive_file", "active_file")),
        (root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("total_inactive_file", "total_active_file")),
    ):
        try:
            most, now = (int((folder / name).read_text()) for name in names)
        except (OSError, ValueError):  # no control group, or "max"
            continue
        yield most / MB, max(0.0, now - _listed(folder / "memory.stat", cached)) / MB


def _listed(path: Path, names: tuple[str, ...]) -> int:
    """Bytes under these names together; 0 where the kernel does not tell."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
        return sum(int(pair[1]) for pair in pairs if pair[0] in names)
    except (OSError, ValueError, IndexError):
        return 0
