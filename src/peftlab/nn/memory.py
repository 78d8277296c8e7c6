"""How much memory a device has, and how much of it is free."""

from __future__ import annotations

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
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            most, now = (int((Path("/sys/fs/cgroup") / name).read_text()) / MB for name in (limit, used))
        except (OSError, ValueError):  # no control group, or "max"
            continue
        total, available = min(total, most), min(available, max(0.0, most - now))
    return total, available
