"""What this machine has, and what works on it: every line was tried, not looked up."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from peftlab.api.answers import Answer, lines, megabytes, table

HUB_TIMEOUT_S = 4.0
_REINSTALL = "install it again: pip install --force-reinstall {name}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that was looked at."""

    group: str
    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def doctor() -> Answer:
    """Devices, memory, disk, libraries, tools and connection: what works here, and how to mend what does not.

    The exit code is 1 where something fails that peftlab cannot do without; what is merely optional is a warning.
    """
    found = [*_machine(), *_libraries(), *_devices(), *_optional(), *_tools(), _hub()]
    failed = [line for line in found if line.state == "fail"]
    warned = [line for line in found if line.state == "warn"]
    data = {"ok": not failed, "lines": found}

    def shown():
        rows = [(line.state, line.name, line.found + (f"\n-> {line.remedy}" if line.remedy else "")) for line in found]
        verdict = f"{len(failed)} broken" if failed else "Everything that peftlab needs works here"
        return lines(table(["", "what", "found"], rows), f"{verdict}; {len(warned)} optional or limited.")

    return Answer(data, shown, exit_code=1 if failed else 0)


def _machine() -> Iterator[Line]:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    yield Line(
        group="machine", name="python", state="ok" if fits else "fail", found=f"{version} on {platform.platform(terse=True)}",
        remedy="" if fits else "install Python 3.11 or newer",
    )  # fmt: skip
    yield _processors()
    yield _memory()
    yield _disk(Path.cwd())


def _processors() -> Line:
    seen = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else seen
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{usable} of {seen} processors usable; OMP_NUM_THREADS {threads or 'not set'} (a run gets one thread either way)"
    return Line(group="machine", name="threads", state="ok", found=found)


def _memory() -> Line:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = _container_limit()
    found = f"{megabytes(free)} free of {megabytes(total)}"
    if limit is not None and limit < total:
        found, free = f"{found}; this container may use {megabytes(limit)}", min(free, limit)
    low = free < 2e9
    return Line(
        group="machine", name="memory", state="warn" if low else "ok", found=found,
        remedy="under 2 GB: close other programs, or run with --jobs 1 and small batches" if low else "",
    )  # fmt: skip


def _container_limit() -> int | None:
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _disk(folder: Path) -> Line:
    free = shutil.disk_usage(folder).free
    low = free < 2e9
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "run from a folder you may write to, or name one with --output"
        return Line(group="machine", name="disk", state="warn", found=f"not writable here: {error.strerror}", remedy=remedy)
    return Line(
        group="machine", name="disk", state="warn" if low else "ok", found=f"{megabytes(free)} free here",
        remedy="under 2 GB: free some space" if low else "",
    )  # fmt: skip


def _libraries() -> Iterator[Line]:
    """Each library doing, once, what peftlab needs it for."""
    trials: dict[str, Callable[[], None]] = {
        "torch": _try_torch,
        "torchvision": lambda: importlib.import_module("torchvision.transforms") and None,
        "transformers": _try_transformers,
        "peft": _try_peft,
        "timm": _try_timm,
        "datasets": lambda: importlib.import_module("datasets") and None,
    }
    for name, trial in trials.items():
        try:
            trial()
            yield Line(group="libraries", name=name, state="ok", found=f"{_version(name)} works")
        except Exception as error:  # whatever a broken installation raises
            found = f"{_version(name)}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            yield Line(group="libraries", name=name, state="fail", found=found[:200], remedy=_REINSTALL.format(name=name))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _try_torch() -> None:
    import torch

    values = torch.ones(4, 4, requires_grad=True)
    (values @ values).sum().backward()
    if values.grad is None or not bool((values.grad == 8).all()):
        raise ArithmeticError("a matrix product has a wrong gradient")


def _tiny_vit() -> Any:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4)
    with torch.random.fork_rng(devices=[]):
        return ViTForImageClassification(config)


def _try_transformers() -> None:
    import torch

    _tiny_vit()(pixel_values=torch.zeros(1, 3, 8, 8))


def _try_peft() -> None:
    import peft
    import torch

    with torch.random.fork_rng(devices=[]):
        layers = torch.nn.Sequential(torch.nn.Linear(4, 4))
        model = peft.get_peft_model(layers, peft.LoraConfig(r=1, target_modules=["0"]))  # pyright: ignore[reportArgumentType]
    model.merge_and_unload()(torch.zeros(1, 4))  # pyright: ignore[reportCallIssue]


def _try_timm() -> None:
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        model = timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1, num_classes=2)
    model(torch.zeros(1, 3, 16, 16))


def _devices() -> Iterator[Line]:
    try:
        import torch
    except Exception:  # said above
        return
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    for name in names:
        try:
            (torch.ones(8, 8, device=name) @ torch.ones(8, 8, device=name)).sum().item()
            yield Line(group="devices", name=name, state="ok", found=_device(name))
        except Exception as error:  # drivers raise anything
            remedy = "check the driver; peftlab can use the processor instead"
            yield Line(group="devices", name=name, state="fail", found=str(error).splitlines()[0][:200], remedy=remedy)
    if not names:
        remedy = "small backbones train on the processor; for others install torch for your accelerator"
        yield Line(group="devices", name="accelerator", state="warn", found="none; training uses the processor", remedy=remedy)


def _device(name: str) -> str:
    import torch

    if not name.startswith("cuda"):
        return "works; memory is shared with the processor"
    about = torch.cuda.get_device_properties(name)
    free, total = torch.cuda.mem_get_info(name)
    bfloat16 = "with" if torch.cuda.is_bf16_supported() else "without"
    return f"{about.name}, {megabytes(free)} free of {megabytes(total)}, {bfloat16} bfloat16"


def _optional() -> Iterator[Line]:
    for name, purpose in {"bitsandbytes": "QLoRA", "onnxruntime": "running ONNX", "ray": "runs on several machines"}.items():
        if find_spec(name) is None:
            found, remedy = f"not installed; needed for {purpose} only", f"pip install {name}"
            yield Line(group="optional", name=name, state="warn", found=found, remedy=remedy)
            continue
        try:
            importlib.import_module(name)
            yield Line(group="optional", name=name, state="ok", found=f"{_version(name)} can be imported")
        except Exception as error:  # as above
            found = f"{_version(name)}: {type(error).__name__}: {error}".splitlines()[0][:200]
            yield Line(group="optional", name=name, state="warn", found=found, remedy=_REINSTALL.format(name=name))


def _tools() -> Iterator[Line]:
    yield _compiler()
    browser = next((p for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (p := shutil.which(n))), None)
    remedy = "" if browser else "any browser opens report/index.html; to run the browser tests install chromium and chromedriver"
    yield Line(group="tools", name="chromium", state="ok" if browser else "warn", found=browser or "not found", remedy=remedy)
    latex = next((p for n in ("latexmk", "tectonic", "pdflatex") if (p := shutil.which(n))), None)
    remedy = "" if latex else "needed to typeset tables only; install TeX Live or tectonic"
    yield Line(group="tools", name="LaTeX", state="ok" if latex else "warn", found=latex or "not found", remedy=remedy)


def _compiler() -> Line:
    """torch.compile translates to C++ on a processor: a compiler, and Python's headers."""
    name = "torch.compile"
    remedy = "optional: install a C++ compiler and Python's headers (Debian: apt install g++ python3-dev)"
    command = next((p for n in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if n and (p := shutil.which(n))), None)
    if command is None:
        return Line(group="tools", name=name, state="warn", found="no C++ compiler", remedy=remedy)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text("#include <Python.h>\nint main() { return 0; }\n", encoding="ascii")
        arguments = [command, "-c", str(source), "-o", str(source.with_suffix(".o")), f"-I{sysconfig.get_path('include')}"]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Line(group="tools", name=name, state="warn", found=f"{command} does not run: {error}", remedy=remedy)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), "failed")
        return Line(group="tools", name=name, state="warn", found=f"{command}: {first[:150]}", remedy=remedy)
    return Line(group="tools", name=name, state="ok", found=f"{command} compiles against Python {platform.python_version()}")


def _hub() -> Line:
    try:
        from huggingface_hub import constants
    except Exception as error:  # as above
        remedy = _REINSTALL.format(name="huggingface_hub")
        return Line(group="connection", name="hub", state="fail", found=f"{type(error).__name__}: {error}"[:200], remedy=remedy)
    if constants.HF_HUB_OFFLINE:
        remedy = "only what lies in the cache or in local folders can be used; unset HF_HUB_OFFLINE to download"
        return Line(group="connection", name="hub", state="warn", found="HF_HUB_OFFLINE is set; not asked", remedy=remedy)
    problem = _reach(constants.ENDPOINT, HUB_TIMEOUT_S)
    if problem is None:
        return Line(group="connection", name="hub", state="ok", found=f"{constants.ENDPOINT} answers")
    remedy = "backbones and data must come from the package, the cache or local folders"
    return Line(group="connection", name="hub", state="warn", found=f"{constants.ENDPOINT}: {problem}"[:200], remedy=remedy)


def _reach(url: str, timeout_s: float) -> str | None:
    """Why the address does not answer; None if it does. In a thread, because looking up a name knows no time limit."""
    import urllib.error
    import urllib.request

    outcome: list[str | None] = [f"no answer within {timeout_s:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s):
                outcome[0] = None
        except urllib.error.HTTPError as error:  # an answer all the same, unless a proxy refuses
            outcome[0] = None if error.code < 500 and error.code != 407 else f"HTTP {error.code}"
        except (OSError, ValueError) as error:
            outcome[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s + 0.5)
    return outcome[0]
