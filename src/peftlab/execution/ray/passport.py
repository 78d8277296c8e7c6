"""What a machine is, and what must be the same on all machines of a study: versions and code. No torch without a GPU."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import peftlab

#: others that decide bits: where they differ the reader is told
WATCHED = ("transformers", "peft", "timm", "bitsandbytes", "tokenizers", "datasets", "numpy", "scikit-learn", "pillow", "ray")


@cache
def passport() -> dict[str, str]:
    """Of this process: runs go only to machines that have the same."""
    return {"python": platform.python_version(), "peftlab": peftlab.__version__, "torch": _version("torch"), "code": _code()}


@cache
def watched() -> dict[str, str]:
    """What may differ, but not unnoticed."""
    return {**{name: _version(name) for name in WATCHED}, "architecture": platform.machine()}


def survey(folder: str, witness: str) -> dict[str, Any]:
    """What a node is."""
    return {
        "host": platform.node(),
        "passport": passport(),
        "watched": watched(),
        "shared": (Path(folder) / witness).is_file(),
        "gpu_mb": _gpu_mb(),
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """``torch 2.11.0 there, 2.12.0 here``."""
    return [
        f"{name} {theirs.get(name) or '-'} there, {ours[name] or '-'} here" for name in ours if theirs.get(name) != ours[name]
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _code() -> str:
    """Hash of the program's own sources."""
    root, digest = Path(peftlab.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _gpu_mb() -> float:
    """Memory of the smallest GPU here; 0 without one."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return 0.0
    import torch

    found = [torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())]
    return min(found, default=0) / 1e6
