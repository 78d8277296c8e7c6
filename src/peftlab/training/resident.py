"""What this process takes of the machine's memory, as the kernel and the C library tell and are told. MB are 10^6 bytes."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import psutil

from peftlab.nn.memory import MB

EXACT_BYTES = 256 * 1024  #: blocks from this size on are given back at once, where that is asked for
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_THRESHOLD = 32 * 1024 * 1024  # DEFAULT_MMAP_THRESHOLD_MAX on 64 bits


def allocate_exactly(exact: bool) -> bool:
    """Ask glibc to give every large block back at once (``exact``), or to keep them for reuse. False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError):
        return False
    done = mallopt(_M_MMAP_THRESHOLD, EXACT_BYTES if exact else _LARGEST_THRESHOLD)
    done &= mallopt(_M_TRIM_THRESHOLD, EXACT_BYTES if exact else 2 * _LARGEST_THRESHOLD)
    if exact:
        gc.collect()
        trim(0)
    return bool(done)


def resident_mb() -> float:
    """Resident size of this process now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    except OSError:
        return psutil.Process().memory_info().rss / MB


def peak_resident_mb() -> float:
    """Largest resident size since the process began or :func:`reset_peak` was called."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024) / MB


def reset_peak() -> bool:
    """Start the kernel's high-water mark anew (proc(5), clear_refs: 5). False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
