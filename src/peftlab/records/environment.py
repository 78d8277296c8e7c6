"""What a run depended on outside its configuration: versions, machine, threads, code, command. Torch-free.

Only variables on an allow-list are kept, and every string is masked, so that no secret reaches a record.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import peftlab
from peftlab.records.redact import redact, redact_all

#: environment variables that change numbers, speed or sources; a trailing * stands for any ending
ALLOWED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "KMP_AFFINITY",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_*",
    "TORCHINDUCTOR_*",
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "TOKENIZERS_PARALLELISM",
    "PYTHONHASHSEED",
    "MALLOC_ARENA_MAX",
    "LD_PRELOAD",
)


def environment(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything of ``environment.json`` that can be known without a model; probes of the run may add to it.

    Args:
        command: the words of the command line; default: this process's.
    """
    versions = _packages()
    found: dict[str, Any] = {
        "peftlab": versions.get("peftlab", getattr(peftlab, "__version__", "")),
        "python": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": platform.node(),
        "cpu": cpu_model(),
        **_machine_size(),
        "threads": _threads(),
        "torch": _torch(),
        "git": _git(Path(peftlab.__file__).resolve().parent),
        "command": sanitised(sys.argv if command is None else command),
        "variables": {k: v for k, v in sorted(os.environ.items()) if _allowed(k)},
        "packages": versions,
        "packages_sha256": hashlib.sha256("\n".join(f"{k}=={v}" for k, v in versions.items()).encode()).hexdigest(),
    }
    return redact_all(found)


def warm() -> None:
    """Look up what cannot change while a process lives, so that processes forked from it need not."""
    _packages()
    cpu_model()
    _git(Path(peftlab.__file__).resolve().parent)


def sanitised(command: Sequence[str]) -> str:
    """A command as one line that can be shared: secrets masked, the program and folders of this user's home shortened."""
    if not command:
        return ""
    words = [Path(command[0]).name, *command[1:]]
    return redact(shlex.join(words).replace(str(Path.home()), "~"))


def _allowed(name: str) -> bool:
    return any(name.startswith(rule[:-1]) if rule.endswith("*") else name == rule for rule in ALLOWED_VARIABLES)


@cache
def _packages() -> dict[str, str]:
    """Installed distributions and their versions, sorted by normalised name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        with suppress(Exception):  # a broken installation of an unrelated package must not stop a run
            found[distribution.metadata["Name"].lower().replace("_", "-")] = distribution.version
    return dict(sorted(found.items()))


@cache
def cpu_model() -> str:
    """What the processor calls itself; may be empty."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    return platform.processor()


def usable_cores() -> int:
    """Logical processors that this process may use: where a batch system or a container gives it some, those."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine_size() -> dict[str, Any]:
    import psutil

    return {
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_usable": usable_cores(),
        "memory_mb": round(psutil.virtual_memory().total / 2**20),
        "memory_limit_mb": _memory_limit_mb(),
    }


def _memory_limit_mb() -> int | None:
    """Limit of the control group (container), if any."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = int(Path(file).read_text())
            return round(limit / 2**20) if limit < 2**60 else None
    return None


def _threads() -> dict[str, int]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}


def _torch() -> dict[str, Any]:
    """Build and devices of torch, where the process has it loaded already."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found: dict[str, Any] = {
        "version": torch.__version__,
        "git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mps": torch.backends.mps.is_available(),
    }
    if torch.version.cuda and torch.cuda.is_available():
        found["cudnn"] = torch.backends.cudnn.version()
        found["driver"] = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split("\n")[0]
        found["devices"] = [_device(torch, index) for index in range(torch.cuda.device_count())]
    return found


def _device(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = f"{properties.major}.{properties.minor}"
    return {"name": properties.name, "capability": capability, "memory_mb": round(properties.total_memory / 2**20)}


@cache
def _git(folder: Path) -> dict[str, Any]:
    """Commit of the program's source and whether it was changed; empty for an installed package."""
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not commit or not _output(["git", "-C", str(folder), "ls-files", "--", "__init__.py"]):
        return {}  # an installed copy that happens to lie inside somebody's repository
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--", "."])
    return {"commit": commit, "dirty": bool(changed)}


def _output(command: list[str]) -> str:
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=quiet, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
