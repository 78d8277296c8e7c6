"""What this machine has and how fast it is: measured once a day, kept in the cache folder, used by predictions only."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from peftlab.errors import PeftlabError
from peftlab.nn.memory import memory_mb
from peftlab.planning.estimate import Estimate, largest_batch, refusal, roofline_s
from peftlab.planning.trace import Operation
from peftlab.records.environment import usable_cores
from peftlab.registry import components
from peftlab.training.precision import resolve_device

_DECIDES = ("torch", "transformers", "peft", "timm", "scikit-learn", "numpy", "peftlab")
_MEASURED = ("process_mb", "product_flops_per_s", "bandwidth_bytes_per_s", "overhead_s", "efficiency")
_TIMEOUT_S = 300
#: for so long a measurement stands: pages of libraries that a process is charged with come and go with what the kernel keeps of
#: their files (100 of 800 MB between a machine just set up and the same one hours later), and a machine can become another one
_STANDS_S = 24 * 3600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One device of this machine, as one worker process with one thread sees it."""

    device: str  #: "cpu", "cuda" or "mps"
    name: str
    cores: int
    total_mb: float
    available_mb: float  #: free now, for one run
    process_mb: float  #: resident size of a worker that has trained a little, without its tensors; 0 on a GPU
    product_flops_per_s: float  #: float32 matrix product, one thread
    bandwidth_bytes_per_s: float
    overhead_s: float  #: per operation
    efficiency: float  #: roofline time / measured time of a small ViT's training step
    devices: tuple[str, ...]

    @classmethod
    def here(cls, cache: Path, *, device: str = "auto", worker: str = "peftlab.execution.preload:preload") -> Machine:
        """This machine. The first call of a day takes ten seconds: a process imports what a worker imports, and trains a little.

        Args:
            cache: folder for what was measured; a file for each combination of versions and host, anew after a day.
            device: "auto", "cpu", "cuda" or "mps".
            worker: ``module:function`` that loads what a worker process has loaded when its run starts.
        """
        chosen = resolve_device(device).type
        measured = _measured(cache, chosen, worker)
        total, available = memory_mb(chosen)
        return cls(
            device=chosen,
            name=torch.cuda.get_device_name() if chosen == "cuda" else platform.processor() or platform.machine(),
            cores=usable_cores(),
            total_mb=total,
            available_mb=available,
            devices=tuple(name for name in ("cpu", "cuda", "mps") if _has(name)),
            **measured,
        )

    def seconds(self, operations: Sequence[Operation]) -> float:
        """Predicted time of the operations, one after another."""
        roofline = roofline_s(operations, self.product_flops_per_s, self.bandwidth_bytes_per_s, self.overhead_s)
        return roofline / self.efficiency

    def largest_batch(self, estimate_at: Callable[[int], Estimate], effective: int) -> int:
        """Largest divisor of the effective batch that is predicted to fit here; 0 if none is."""
        return largest_batch(estimate_at, self.available_mb, effective)

    def refusal(self, found: Estimate, estimate_at: Callable[[int], Estimate], effective: int) -> str | None:
        """Why the run cannot fit here, with the largest batch that would; None when it fits."""
        return refusal(found, estimate_at, self.available_mb, effective)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


def _has(device: str) -> bool:
    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]


def measured_file(cache: Path, what: str, *about: str) -> Path:
    """Where something measured on this host lies in the cache folder: a file for each combination of versions."""
    versions = []
    for package in _DECIDES:
        try:
            versions.append(f"{package}={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package}=-")
    host = (platform.node(), platform.machine(), platform.python_version(), os.cpu_count(), sys.prefix, *about, *versions)
    return cache / f"{what}-{hashlib.sha256(repr(host).encode()).hexdigest()[:16]}.json"


def _measured(cache: Path, device: str, worker: str) -> dict[str, float]:
    """What :mod:`peftlab.planning.calibration` measured, from the cache folder or anew."""
    file = measured_file(cache, "machine", device, worker)
    try:
        if 0 <= time.time() - file.stat().st_mtime < _STANDS_S:
            return {name: float(json.loads(file.read_text())[name]) for name in _MEASURED}
    except (OSError, ValueError, KeyError):  # not there, or not whole
        pass
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "peftlab.planning.calibration", device, worker]
    said = ""
    try:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for kind in ("adapter", "allocator", "quantizer"):
                components(kind)  # whoever asks is going to plan, and needs what takes as long to import here as there
            try:
                printed, said = process.communicate(timeout=_TIMEOUT_S)
            finally:
                process.kill()  # where it hangs, or nobody waits any more; has no effect on one that has ended
        found = json.loads(printed.strip().splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        last = (said.strip() or str(error)).splitlines()
        raise PeftlabError(
            f"memory and speed of this machine could not be measured: {last[-1][:200]}",
            where=device,
            remedy=f"see the whole error with `python -m peftlab.planning.calibration {device} {worker}`",
        ) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(found))
    part.replace(file)
    return found
